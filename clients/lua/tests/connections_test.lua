-- A connection's life in the Lua client: the handshake, losses, held calls, reconnection, and serving the server.
local check = require 'check'
local socket = require 'socket'
local yue_client = require 'yue_client'

local LOGIN = [[
  local accounts = { frodo = 'mellon' }
  local listener = yue.listen(yue.args[1], {
    __accept = function(conn)
      local name, password = conn.procs.account()
      return accounts[name] == password and { name = name, at = conn.procs.where.am.i() }
    end,
    attack = function(monster) return monster .. ' is defeated' end,
  })
]]

local SERVER = [[
  local listener = yue.listen(yue.args[1], {
    add = function(a, b) return a + b end,
    nap = function(seconds) yue.sleep(seconds) return 'rested' end,
    keep = function(f) kept = f end,
    call_kept = function(...) return kept(...) end,
    counter = function() local n = 0 return function() n = n + 1 return n end end,
    take = function(f) return f() end,
    ask_back = function(name, ...) return yue.peer().procs[name](...) end,
    try_back = function(name, ...)
      local ok, e = pcall(yue.peer().procs[name], ...)
      if ok then return true, e end
      return false, e.type, e.msg, e.value
    end,
    tell_back = function(name, ...) yue.peer().procs['notify_' .. name](...) end,
    describe_back = function() return (yue.peer():describe()) end,
    nest = function(depth) return depth == 0 and 0 or 1 + yue.peer().procs.nest(depth - 1) end,
    echo = function(text) return text end,
    flood = function(count, text)
      local calls, bytes = {}, 0
      for i = 1, count do calls[i] = yue.spawn(yue.peer().procs.timed_echo, 60, text) end
      for _, call in ipairs(calls) do bytes = bytes + #call:get() end
      return bytes
    end,
    note = function(text) noted = text end,
    noted = function() return noted end,
    part = function(why) yue.peer():close(why) end,
    together = function(name, count)
      local calls, failures = {}, {}
      for i = 1, count do calls[i] = yue.peer().procs['async_' .. name]() end
      for _, call in ipairs(calls) do
        local ok, e = call:sync()
        if not ok then failures[#failures + 1] = e.type end
      end
      return failures
    end,
  })
]]
local SLOW = "local listener = yue.listen(yue.args[1], { __accept = function() yue.sleep(60) end })"

local tests = {}

function tests.the_server_calls_before_it_grants()
  local order, peer = {}, nil
  local client
  client = check.open(check.serve(LOGIN).address, {
    symbols = {
      account = function()
        client:wait(0.01)
        order[#order + 1], peer = 'asked', yue_client.peer()
        return 'frodo', 'mellon'
      end,
      where = { am = { i = function() return 'shire' end } },
    },
    accept = function(conn, player)
      conn:wait(0.01)
      order[#order + 1] = player.name .. ' at ' .. player.at
    end,
  })
  check.equal(client:connected(), false)
  check.run(client, function(c) check.equal(c.attack 'the goblin', 'the goblin is defeated') end)
  check.equal(table.concat(order, ', '), 'asked, frodo at shire')
  check.equal(peer, client)
  check.equal(yue_client.peer(), nil)
  check.equal(client:connected(), true)
end

local function login(passwords, options)
  options.symbols = {
    account = function() return 'frodo', table.remove(passwords, 1) end,
    where = { am = { i = function() return '' end } },
  }
  return check.open(check.serve(LOGIN).address, options)
end

function tests.a_refusal_ends_the_calls_that_wait()
  check.run(login({ 'wrong' }, {}), function(c)
    check.equal(check.raises('NotGrantedError', c.attack, 'x').retryable, true)
  end)
end

function tests.a_held_call_survives_refusals_that_are_retried()
  local reasons = {}
  local client = login({ 'wrong', 'wrong', 'mellon' }, {
    close = function(_, reason) reasons[#reasons + 1] = reason return true end,
  })
  check.run(client, function(c) check.equal(c.attack 'the troll', 'the troll is defeated') end)
  check.equal(#reasons, 2)
  check.matches(reasons[1], 'did not grant')
end

function tests.accept_can_refuse_and_fail()
  local address = check.serve(SERVER).address
  for _, accept in ipairs { function() return false end, function() error 'broken' end } do
    local client = check.open(address, { accept = accept })
    check.run(client, function(c) check.matches(check.raises('NotGrantedError', c.add, 1, 1).msg, '^accept ') end)
  end
end

function tests.a_function_is_called_before_the_grant()
  local granted
  local client = check.open(check.serve([[
    local listener = yue.listen(yue.args[1], {
      __accept = function(conn) return conn.procs.prove(function(n) return n * 2 end) end,
      done = function() return 'done' end,
    })
  ]]).address, {
    symbols = { prove = function(double) return double(21) end },
    accept = function(_, value) granted = value end,
  })
  check.run(client, function(c) check.equal(c.done(), 'done') end)
  check.equal(granted, 42)
end

function tests.a_slow_grant_times_out()
  local client = check.open(check.serve(SLOW).address, { handshake_timeout = 0.5, close = function() end })
  check.run(client, function(c) check.matches(check.raises('ConnectionLostError', c.f).msg, 'took too long') end)
end

function tests.the_time_of_the_handshake_ends_with_the_grant()
  local reason
  local client = check.open(check.serve(SERVER).address, {
    handshake_timeout = 1, close = function(_, why) reason = why end,
  })
  check.run(client, function(c)
    c.add(1, 1)
    client:wait(1.1)
  end)
  check.equal(reason, nil)
end

function tests.a_held_call_has_its_deadline_and_held_calls_are_bounded()
  local client = check.open(check.serve(SLOW).address, { held_max = 2000 })
  check.run(client, function(c)
    check.equal(check.raises('TimeoutError', c.timed_f, 0.05).retryable, true)
    local call = client:call('put', ('x'):rep(5000), function() end)
    check.equal(check.raises('QueueFullError', c.put, 'y').retryable, true)
    check.equal(c.notify_put 'y', false)
    client:cancel(call)
    check.equal(client.held_bytes, 0)
    check.equal(c.timed_notify_put(0.02, 'y'), true)
    check.equal(#client.held, 1)
    client:wait(0.05)
    check.equal(#client.held, 0)
  end)
end

-- A port that nobody uses, below those that the system chooses for others meanwhile.
local function free_port()
  math.randomseed(socket.gettime() * 1e6 % 2 ^ 31)
  while true do
    local port = math.random(10000, 32000)
    local probe = socket.bind('127.0.0.1', port)
    if probe then
      probe:close()
      return port
    end
  end
end

function tests.nobody_listens()
  for _, address in ipairs {
    'tcp://127.0.0.1:' .. free_port(), 'tcp://localhost:' .. free_port(), 'unix:///nonexistent/x',
  } do
    check.run(check.open(address), function(c)
      check.equal(check.raises('ConnectionRefusedError', c.f).retryable, true)
    end)
  end
end

function tests.retry_waits_for_the_first_server()
  local address = 'tcp://127.0.0.1:' .. free_port()
  local client = check.open(address, { retry = true })
  local result
  client:call('add', 1, 2, function(_, sum) result = sum end)
  check.pass(0.1)
  check.serve(SERVER, address)
  check.wait('the answer', function() return result == 3 end)
end

function tests.calls_survive_a_server_that_starts_again()
  local server, reasons = check.serve(SERVER), {}
  local client = check.open(server.address, { close = function(_, why) reasons[#reasons + 1] = why return true end })
  local lost, short, sum, held = nil, nil, 0, 0
  check.run(client, function(c)
    client:call('nap', 1000, function(_, e) lost = e end)
    check.equal(c.add(1, 1), 2)
  end)
  server:stop()
  check.wait('the loss', function() return lost end)
  check.equal(lost.type, 'ConnectionLostError')
  check.equal(lost.retryable, false)
  for i = 1, 10 do client:call('add', i, 0, function(_, n) sum, held = sum + n, held + 1 end) end
  client:call('timed_add', 0.05, 1, 1, function(_, e) short = e end)
  check.wait('the timeout', function() return short end)
  check.equal(short.type, 'TimeoutError')
  check.equal(short.retryable, true)
  check.serve(SERVER, server.address)
  check.wait('the held calls', function() return held == 10 end)
  check.equal(sum, 55)
  check.equal(#reasons, 1)
end

function tests.functions_die_with_their_link()
  local server = check.serve(SERVER)
  local client = check.open(server.address)
  local count
  check.run(client, function(c)
    count = c.counter()
    c.keep(function() end)
  end)
  check.equal(client:functions_held(), 1)
  local link = client.link
  server:stop()
  check.wait('the loss', function() return not client:connected() end)
  check.equal(client:functions_held(), 0)
  check.equal(next(link.exports), nil)
  check.equal(client:notify(count), false)
  local mine
  client:call('take', function() return 'here' end, function(_, result) mine = result end)
  check.run(client, function(c)
    check.equal(check.raises('ConnectionLostError', count).retryable, true)
    check.raises('ConnectionLostError', c.take, count)
  end)
  check.serve(SERVER, server.address)
  check.wait('the held call', function() return mine == 'here' end)
end

function tests.a_connection_that_is_closed_stays_so()
  local client = check.open(check.serve(SERVER).address)
  local lost
  client:call('nap', 1000, function(_, e) lost = e end)
  check.run(client, function(c) c.add(1, 1) end)
  client:close()
  client:close()
  check.wait('the loss', function() return lost end)
  check.run(client, function(c)
    check.raises('ConnectionLostError', c.add, 1, 1)
    check.equal(c.notify_add(1, 1), false)
  end)
end

function tests.the_server_tells_why_it_closes_and_hears_why_the_client_does()
  local reason
  local server = check.serve(SERVER)
  local client = check.open(server.address, { close = function(_, why) reason = why end })
  check.run(client, function(c) c.add(1, 1) end)
  client:notify('part', 'the shop is closed')
  check.wait('the reason', function() return reason end)
  check.matches(reason, 'the shop is closed')
end

function tests.a_silent_peer_is_lost_and_an_answering_one_stays()
  local reason
  local hello = '\148\1\0\192\146\1\128' .. '\147\2\172$yue/granted\145\192'
  local client = check.open(check.hostile(hello).address, {
    keepalive = 0.2, close = function(_, why) reason = why end,
  })
  client:notify 'x'
  check.wait('the loss', function() return reason end)
  check.matches(reason, 'silent')
  local lost
  client = check.open(check.serve(SERVER).address, { keepalive = 3, close = function() lost = true end })
  check.run(client, function(c) c.add(1, 1) end)
  local link, before = client.link, client.link.heard_at
  check.wait('the answer to a ping', function() return link.heard_at > before end)
  check.equal(link.heard_at - before > 0.5, true)
  check.run(client, function(c) c.add(1, 1) end)
  check.equal(lost, nil)
end

function tests.the_server_calls_in_the_middle_of_a_call()
  local client
  client = check.open(check.serve(SERVER).address, {
    symbols = {
      choose = function(question, answers) return question .. ' ' .. answers[client.procs.add(1, 1)] end,
      none = function() end,
      several = function() return 1, nil, 3 end,
    },
  })
  check.run(client, function(c)
    check.equal(c.ask_back('choose', 'class?', { 'warrior', 'mage' }), 'class? mage')
    check.equal(select('#', c.ask_back 'none'), 0)
    check.equal(select('#', c.ask_back 'several'), 3)
    check.equal(c.ask_back '$yue/ping', nil)
  end)
end

function tests.only_symbols_can_be_called()
  local reached = function() return 'reached' end
  local class = setmetatable({}, { __index = { inherited = reached } })
  local client = check.open(check.serve(SERVER).address, {
    symbols = {
      _private = reached, inner = { _private = reached, f = function() return 'inner' end }, _hidden = { f = reached },
      class = class, module = string, text = 'x', os = os,
    },
  })
  check.run(client, function(c)
    for _, name in ipairs {
      '_private', 'inner._private', '_hidden.f', 'class.inherited', 'module.rep', 'os.exit', 'text', 'text.rep',
      'inner', '', '.', 'inner.', 'inner..f', 'print', 'inner.f.x', '$yue/load', 'nothing',
    } do
      local ok, kind = c.try_back(name)
      check.equal(ok, false, name)
      check.equal(kind, 'NoMethodError', name)
    end
    check.equal(c.ask_back 'inner.f', 'inner')
    client.namespace.late = function() return 'here' end
    check.equal(c.ask_back 'late', 'here')
    local described = c.describe_back()
    check.equal(#described, 2)
    check.equal(described[1].name, 'inner.f')
  end)
end

function tests.failures_are_logged_and_travel()
  local client
  client = check.open(check.serve(SERVER).address, {
    symbols = {
      fails = function() error('broken', 0) end,
      later = function() client:wait(0.01) error('later', 0) end,
      raises_table = function() error { reason = 'tired' } end,
      mine = function() error(yue_client.errors.ServerBusyError.new('come again', { wait = 5 })) end,
      bad_result = function() return io.stdout end,
    },
  })
  check.run(client, function(c)
    local _, kind, msg = c.try_back 'fails'
    check.equal(kind .. ': ' .. msg, 'RuntimeError: broken')
    check.equal(select(3, c.try_back 'later'), 'later')
    check.equal(select(4, c.try_back 'raises_table').reason, 'tired')
    local _, busy, _, value = c.try_back 'mine'
    check.equal(busy, 'ServerBusyError')
    check.equal(value.wait, 5)
    check.equal(select(2, c.try_back 'bad_result'), 'ServerError')
  end)
  check.equal(#client.logged, 5)
  check.matches(client.logged[1], '"fails" failed, called by tcp://.*broken.*traceback')
end

function tests.requests_start_in_the_order_in_which_they_arrive()
  local order, client = {}, nil
  client = check.open(check.serve(SERVER).address, {
    symbols = {
      slow = function(n) order[#order + 1] = n client:wait(0.01) end,
      quick = function(n) order[#order + 1] = n end,
    },
  })
  for n = 1, 20 do client:notify('tell_back', n % 3 == 0 and 'slow' or 'quick', n) end
  check.wait('all notifications', function() return #order == 20 end)
  for n = 1, 20 do check.equal(order[n], n) end
end

function tests.functions_at_the_limit_are_refused()
  local running, client = 0, nil
  client = check.open(check.serve(SERVER).address, {
    in_flight_max = 3,
    symbols = { work = function() running = running + 1 client:wait(0.3) end },
  })
  check.run(client, function(c)
    local failures = c.together('work', 5)
    check.equal(#failures, 2)
    check.equal(failures[1], 'ServerBusyError')
  end)
  check.equal(running, 3)
end

function tests.calls_nest_fifty_deep()
  local client
  client = check.open(check.serve(SERVER).address, {
    symbols = { nest = function(depth) return depth == 0 and 0 or 1 + client.procs.nest(depth - 1) end },
  })
  check.run(client, function(c) check.equal(c.nest(50), 50) end)
end

function tests.two_peers_that_flood_each_other_make_progress()
  local client = check.open(check.serve(SERVER).address, { symbols = { echo = function(text) return text end } })
  local text, answers, flood = ('x'):rep(200000), 0, nil
  check.run(client, function(c) c.echo(1) end)
  client:call('flood', 60, text, function(_, bytes) flood = bytes end)
  for _ = 1, 40 do
    client:call('echo', text, function(ok, answer) answers = answers + (ok and #answer == #text and 1 or 0) end)
  end
  check.wait('both', function() return answers == 40 and flood end)
  check.equal(flood, 60 * #text)
  check.equal(client.link.running + client.link.waiting_bytes, 0)
end

function tests.messages_before_a_close_arrive()
  local address = check.serve(SERVER).address
  local client = check.open(address)
  check.run(client, function(c) c.echo(1) end)
  check.equal(client:notify('note', ('x'):rep(5000)), true)
  client:close 'done'
  local other, noted = check.open(address), nil
  check.run(other, function(c)
    repeat noted = c.noted() until noted
  end)
  check.equal(#noted, 5000)
end

function tests.unix()
  local path = os.tmpname()
  os.remove(path)
  local client = check.open(check.serve(SERVER, 'unix://' .. path).address)
  check.run(client, function(c) check.equal(c.add(1, 2), 3) end)
  os.remove(path)
end

function tests.a_name_is_resolved()
  local address = check.serve(SERVER).address:gsub('127%.0%.0%.1', 'localhost')
  check.run(check.open(address), function(c) check.equal(c.add(1, 2), 3) end)
end

check.main(tests)
