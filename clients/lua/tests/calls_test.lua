-- Calls of the Lua client: callbacks, coroutines, errors, deadlines, values and functions.
local check = require 'check'
local yue_client = require 'yue_client'
local values = require 'yue_client.values'

local SERVER = [[
  local listener = yue.listen(yue.args[1], { cancel = true }, {
    add = function(a, b) return a + b end,
    echo = function(...) return ... end,
    count = function(...) return select('#', ...) end,
    world = { join = function(name) return 'welcome ' .. name end },
    none = function() end,
    two = function() return 1, nil end,
    timed_thing = function(a) return 'thing ' .. a end,
    fail = function(what) error(what, 0) end,
    fail_table = function() error { reason = 'tired' } end,
    nap = function(seconds)
      local ok, e = pcall(yue.sleep, seconds)
      if not ok then cancelled = (cancelled or 0) + 1 error(e) end
      return 'rested'
    end,
    cancelled = function() return cancelled end,
    deadline = function() return yue.deadline() end,
    note = function(text) noted = text end,
    noted = function() return noted end,
    _secret = function() return 'secret' end,
    apply = function(f, ...) return f(...) end,
    keep = function(f) kept = f end,
    drop = function() kept = nil collectgarbage() collectgarbage() end,
    counter = function() local n = 0 return function() n = n + 1 return n end end,
    held = function() return yue.peer():stats().functions_held end,
    give = function() mine = mine or function() return 'mine' end return mine end,
    is_mine = function(f) return f == mine end,
    fill = function(n) return ('x'):rep(n) end,
    length = function(text) return #text end,
    kind = function(v) return yue.json.encode(v) end,
  })
]]

local tests = {}

local function with_server(fn)
  return function()
    local client = check.open(check.serve(SERVER).address)
    check.run(client, function(c) fn(c, client) end)
  end
end

function tests.a_callback_gets_the_results()
  local client = check.open(check.serve(SERVER).address)
  local got
  client:call('world.join', 'frodo', function(...) got = { ... } end)
  check.equal(got, nil, 'nothing waits')
  check.wait('the answer', function() return got end)
  check.equal(got[1], true)
  check.equal(got[2], 'welcome frodo')
  got = nil
  client:call('timed_add', 5, 1, 2, function(...) got = { ... } end)
  check.wait('the answer', function() return got end)
  check.equal(got[2], 3)
  got = nil
  client:call('fail', 'no eggs', function(...) got = { ... } end)
  check.wait('the error', function() return got end)
  check.equal(got[1], false)
  check.equal(tostring(got[2]), 'RuntimeError: no eggs')
  check.raises('ArgumentError', client.call, client, 'add', 1, 2)
  check.raises('CallError', client.procs.add, 1, 2)
  check.equal(client.procs.notify_note 'noted', true)
end

function tests.a_callback_that_fails_is_logged()
  local client = check.open(check.serve(SERVER).address)
  client:call('add', 1, 1, function() error('oh no') end)
  check.wait('the log', function() return client.logged[1] end)
  check.matches(client.logged[1], 'a callback failed: .*oh no')
end

tests.a_coroutine_gets_the_results = with_server(function(c)
  check.equal(c.add(1, 2), 3)
  check.equal(c.world.join 'frodo', 'welcome frodo')
  check.equal(select('#', c.none()), 0)
  check.equal(select('#', c.two()), 2)
  local a, b, d = c.echo(1, nil, 'x')
  check.equal(a, 1)
  check.equal(b, nil)
  check.equal(d, 'x')
  check.equal(c.count(nil, nil), 2)
end)

tests.prefixes_and_literal_names = with_server(function(c)
  c.add(1, 1)
  check.equal(check.raises('TimeoutError', c.timed_nap, 0.02, 30).retryable, false)
  check.equal(c['=timed_thing'](1), 'thing 1')
  check.equal(c.timed_add(5, 1, 1), 2)
  check.equal(c.notify_note 'noted', true)
  check.equal(c.noted(), 'noted')
  check.raises('ArgumentError', c.timed_add, 'soon')
  check.raises('ArgumentError', c.add, c, 1, 1)
  check.raises('ArgumentError', function() c(1) end)
end)

tests.errors_are_of_the_tree = with_server(function(c)
  local e = check.raises('RuntimeError', c.fail, 'no eggs')
  check.equal(e:is_a 'RPCError', true)
  check.equal(e:is_a 'ClientError', false)
  check.equal('failed: ' .. e, 'failed: RuntimeError: no eggs')
  check.equal(check.raises('RuntimeError', c.fail_table).value.reason, 'tired')
  for _, name in ipairs { 'nothing', '_secret', 'world' } do check.raises('NoMethodError', c[name]) end
end)

tests.values_arrive_as_they_were_sent = with_server(function(c)
  local sent = {
    true, false, 0, -1, 127, 128, 255, 256, 65535, 65536, 2 ^ 32, 2 ^ 53 - 1, -32, -33, -128, -129, -32769, -2 ^ 40,
    1.5, -0.25, 1e300, math.huge, -math.huge, '', 'text', 't\195\171xt', '\255\0', ('x'):rep(300), ('y'):rep(70000),
  }
  for _, value in ipairs(sent) do check.equal(c.echo(value), value) end
  local nan = c.echo(0 / 0)
  check.equal(nan ~= nan, true)
  local t = c.echo { 1, 2, { a = { b = 'deep' } } }
  check.equal(t[3].a.b, 'deep')
  check.equal(values.plain {}, '\144')
  check.equal(values.plain(yue_client.map {}), '\128')
  check.equal(values.plain(yue_client.array({ 1, nil, 3 }, 4)), '\148\1\192\3\192')
  check.equal(values.plain { 1, yue_client.null, 3 }, '\147\1\192\3')
  check.equal(values.plain { 1, nil, 3 }, '\130\1\1\3\3')
  check.equal(c.kind { x = 1 }, '{"x":1}')
  local shared = { 7 }
  check.equal(c.echo({ a = shared, b = { shared } }).b[1][1], 7)
  local long = {}
  for i = 1, 70000 do long[i] = i end
  check.equal(#c.echo(long), 70000)
end)

tests.values_that_cannot_be_sent_are_named = with_server(function(c)
  local cycle = {}
  cycle[1] = cycle
  local deep = {}
  for _ = 1, 200 do deep = { deep } end
  for _, case in ipairs {
    { { items = { 1, io.stdout } }, '^args%[2%].items%[2%] cannot be sent: it is a userdata' },
    { cycle, 'contains itself' }, { deep, 'nested too deeply' }, { c.add, 'a remote procedure' },
    { coroutine.create(print), 'a thread' },
  } do
    check.matches(check.raises('ArgumentError', c.echo, 1, case[1]).msg, case[2])
  end
  check.raises('MessageTooLargeError', c.echo, ('x'):rep(5 * 1024 * 1024))
  check.equal(c.add(1, 1), 2)
end)

tests.large_messages_arrive = with_server(function(c)
  check.equal(#c.fill(3 * 1024 * 1024), 3 * 1024 * 1024)
  check.equal(c.length(('x'):rep(3 * 1024 * 1024)), 3 * 1024 * 1024)
end)

tests.the_time_that_remains_travels = with_server(function(c)
  local remaining = c.timed_deadline(20)
  check.equal(remaining > 0 and remaining <= 20, true, remaining)
end)

tests.a_call_may_wait_without_limit = with_server(function(c)
  check.equal(c.timed_deadline(math.huge), nil)
end)

tests.a_call_that_timed_out_or_was_cancelled_is_cancelled_there = with_server(function(c, client)
  local called = false
  local call = client:call('nap', 1000, function() called = true end)
  c.add(1, 1)
  client:cancel(call)
  client:cancel(call)
  while c.cancelled() ~= 1 do client:wait(0.01) end
  -- On a busy machine the time may pass before the handler starts.
  repeat check.raises('TimeoutError', c.timed_nap, 0.02, 1000) until c.cancelled() == 2
  check.equal(called, false)
end)

function tests.calls_travel_together()
  local client = check.open(check.serve(SERVER).address)
  local sum, answers = 0, 0
  for i = 1, 1000 do
    client:call('add', i, i, function(_, result) sum, answers = sum + result, answers + 1 end)
  end
  check.wait('all answers', function() return answers == 1000 end)
  check.equal(sum, 1001000)
end

tests.functions_are_called_where_they_were_made = with_server(function(c, client)
  check.equal(c.apply(function(n) return n * 2 end, 21), 42)
  check.equal(c.apply(function(n)
    client:wait(0.01)
    return c.add(n, 1)
  end, 2), 3)
  local count = c.counter()
  check.equal(count(), 1)
  check.equal(client:notify(count), true)
  check.equal(count(), 3)
  local got
  client:call(count, function(_, n) got = n end)
  while not got do coroutine.yield() end
  check.equal(got, 4)
end)

tests.functions_come_back_as_themselves = with_server(function(c)
  local function mine() end
  check.equal(c.echo(mine), mine)
  check.equal(c.echo({ f = mine }).f, mine)
  local theirs = c.give()
  check.equal(c.give(), theirs)
  check.equal(c.is_mine(theirs), true)
end)

tests.collected_functions_are_released_on_both_sides = with_server(function(c, client)
  local counters = {}
  for i = 1, 100 do counters[i] = c.counter() end
  check.equal(c.held(), 100)
  counters = nil
  while c.held() > 0 do collectgarbage() end
  c.keep(function() end)
  check.equal(client:functions_held(), 1)
  c.drop()
  while client:functions_held() > 0 do client:wait(0.01) end
end)

function tests.a_function_of_another_connection_is_refused()
  local address = check.serve(SERVER).address
  local client, other = check.open(address), check.open(address)
  local count
  check.run(client, function(c) count = c.counter() end)
  check.run(other, function(c)
    c.add(1, 1)
    check.matches(check.raises('ArgumentError', c.apply, count).msg, 'another connection')
  end)
end

function tests.limits_of_calls_and_functions()
  local address = check.serve(SERVER).address
  local client = check.open(address, { in_flight_max = 1, references_max = 1 })
  check.run(client, function(c)
    c.keep(print)
    check.raises('MessageRefusedError', c.keep, function() end)
    client:call('nap', 0.05, function() end)
    check.raises('MessageRefusedError', c.add, 1, 1)
  end)
end

function tests.legacy_sends_plain_messages()
  local client = check.open(check.serve(SERVER).address, { legacy = true })
  check.run(client, function(c)
    check.equal(c.add(1, 2), 3)
    check.equal(c.two()[1], 1)
    check.matches(check.raises('ArgumentError', c.apply, print).msg, 'not a yue peer')
  end)
end

function tests.the_codec_is_left_as_it_was()
  local mp = require 'MessagePack'
  local before = mp.build_ext
  local client = check.open(check.serve(SERVER).address)
  check.run(client, function(c) c.counter() end)
  check.equal(mp.build_ext, before)
end

function tests.addresses_and_options_are_checked()
  for _, bad in ipairs {
    '', 'localhost:1', 'tcp://host', 'tcp://host:0', 'tcp://host:65536', 'udp://h:1', 'unix://x',
  } do
    check.raises('AddressError', yue_client.open, bad)
  end
  check.raises('AddressError', yue_client.open, nil)
  for _, options in ipairs {
    { timeuot = 1 }, { timeout = 'x' }, { timeout = 0 }, { accept = 1 }, { symbols = print }, { 1 },
    { keepalive = true },
  } do
    check.raises('ArgumentError', yue_client.open, 'tcp://h:1', options)
  end
  yue_client.open('tcp://[::1]:80', { keepalive = false })
end

function tests.utf8_is_told_from_other_bytes()
  for _, text in ipairs {
    '', 'abc', '\195\171', '\226\130\172', '\240\159\152\128', '\244\143\191\191', 'a\195\171b',
  } do
    check.equal(values.is_utf8(text), true, text)
  end
  for _, text in ipairs {
    '\128', '\195', '\195a', '\192\128', '\193\191', '\224\128\128', '\237\160\128', '\240\128\128\128',
    '\244\144\128\128', '\245\128\128\128', '\255', '\226\130', 'abc\195\171\255',
  } do
    check.equal(values.is_utf8(text), false, text)
  end
end

check.main(tests)
