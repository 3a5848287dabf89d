-- Servers that send what no server should, and what foreign ones do, to the Lua client.
local check = require 'check'
local mp = require 'MessagePack'

local HELLO = '\148\1\0\192\146\1\128'
local GRANT = HELLO .. '\147\2\172$yue/granted\145\192'
local LEGACY = '\148\1\0\173no such thing\192'
local tests = {}

local function array(...)
  local out = { string.char(0x90 + select('#', ...)) }
  for i = 1, select('#', ...) do out[i + 1] = (select(i, ...)) end
  return table.concat(out)
end

local function fails(pattern, options, ...)
  local server = check.hostile(...)
  local client = check.open(server.address, options)
  check.run(client, function(c) check.matches(check.raises('ConnectionLostError', c.anything).msg, pattern) end)
  client:close()
  return server
end

function tests.each_link_has_another_number_in_its_hello()
  local server, numbers = check.hostile(GRANT, '\193'), {}
  for _ = 1, 2 do
    check.run(check.open(server.address, { reconnect = false }), function(c)
      check.raises('ConnectionLostError', c.anything)
    end)
  end
  for number in server.received:gmatch '%$yue/hello\146\1\129\162id\207(........)' do
    check.equal(number:find '[^%z]' ~= nil and not numbers[number], true)
    numbers[number], numbers[#numbers + 1] = true, number
  end
  check.equal(#numbers, server.links)
end

function tests.nonsense_fails_the_calls_after_three_links()
  for _, nonsense in ipairs { 'HTTP/1.1 400 Bad Request\r\n\r\n', '\193\193', '\192' } do
    check.equal(fails('does not speak msgpack%-rpc', nil, nonsense).links, 3)
  end
end

function tests.messages_of_the_wrong_form_end_the_link()
  local p = mp.pack
  for _, message in ipairs {
    p(1), '\192', '\144', '\128', array(p(9), p(1), p(2), p(3)), array(p(0), p(1)), array(p(0), p(-1), p 'f', '\144'),
    array(p(0), p(2 ^ 32), p 'f', '\144'), array(p(0), p(true), p 'f', '\144'), array(p(0), p(1), '\192', '\144'),
    array(p(0), p(1), p 'f', p(7)), array(p(1), p(0), '\192'), array(p(1), p '0', '\192', '\192'), array(p(2), p 'f'),
    array(p(2), p 'f', '\128'), array(p(1), p(0), '\192', '\192', p(1), p(1)), array(p(0), p(1.5), p 'f', '\144'),
  } do
    fails('does not speak msgpack%-rpc', nil, GRANT, message)
  end
end

function tests.deep_nesting_ends_the_link()
  fails('nested too deeply', nil, GRANT, ('\145'):rep(100000))
end

function tests.announced_lengths_take_no_memory()
  for _, announced in ipairs {
    '\221\255\255\255\255', '\223\255\255\255\255', '\198\255\255\255\255', '\201\255\255\255\255\1',
  } do
    fails('more than 4194304 bytes', nil, GRANT, '\148\1\1\192' .. announced)
  end
end

function tests.too_large_a_message_ends_the_link()
  fails('more than 2000', { message_max = 2000 }, GRANT, '\148\1\1\192' .. mp.pack(('x'):rep(3000)))
end

function tests.an_answer_before_garbage_arrives()
  local client = check.open(check.hostile(GRANT, '\148\1\1\192\164fine\193').address, { reconnect = false })
  check.run(client, function(c) check.equal(c.anything(), 'fine') end)
  check.wait('the end', function() return not client:connected() end)
end

function tests.unknown_ids_and_messages_are_ignored()
  local p = mp.pack
  local function control(name, ...) return array(p(2), p(name), array(...)) end
  local ignored = {
    array(p(1), p(99), '\192', p 'x'), control '$yue/unknown', control 'unknown', control('$yue/cancel', p(7)),
    control '$yue/cancel', control('$yue/release', p { { 1, 1 }, { 2, 5 } }), control('$yue/release', p { { 1 } }),
    control('$yue/release', p(5)), control('$yue/release', p { { { 1 }, 1 } }), control '$yue/release',
    control('$yue/granted', p(5)), array(p(2), p(12345), '\144'), control('$yue/chunk', p(0), p(10)),
  }
  local client = check.open(check.hostile(GRANT, table.concat(ignored) .. '\148\1\1\192\164fine').address)
  check.run(client, function(c) check.equal(c.anything(), 'fine') end)
end

function tests.odd_references_and_ext_values_are_opaque()
  local odd = { '\199\0\89', '\212\89\1', '\215\89' .. ('\3'):rep(8), '\215\5' .. ('\1'):rep(8) }
  local server = check.hostile(GRANT, '\148\1\1\192' .. array(odd[1], odd[2], odd[3], odd[4]))
  local client = check.open(server.address)
  check.run(client, function(c)
    local values = c.anything()
    check.equal(#values, 4)
    check.equal(values[3].code, 89)
    c.notify_back(values[2], values[4])
  end)
  check.wait('them back', function()
    return server.received:find('\199\1\89\1', 1, true) and server.received:find(odd[4], 1, true)
  end)
end

function tests.a_reference_to_nothing_is_no_function()
  local client = check.open(check.hostile(GRANT, '\148\1\1\192\215\89\2' .. ('\0'):rep(7)).address)
  check.run(client, function(c) check.raises('NoMethodError', (c.anything())) end)
end

function tests.functions_in_answers_that_come_too_late_are_released()
  local reference = '\215\89\1\0\0\0\0\0\0\5'
  local server = check.hostile(GRANT, '', '\148\1\1\192' .. array(reference, reference))
  local client = check.open(server.address)
  check.run(client, function(c) check.raises('TimeoutError', c.timed_anything, 0.02) end)
  local release = array(mp.pack(2), mp.pack '$yue/release', array(array(array('\207\0\0\0\0\0\0\0\5', '\2'))))
  check.wait('the release', function()
    client:notify 'poke'
    collectgarbage()
    return server.received:find(release, 1, true)
  end)
end

function tests.a_large_release_takes_only_what_was_given()
  local client = check.open(check.hostile(GRANT).address)
  client:notify('keep', print)
  check.wait('the function', function() return client:functions_held() == 1 end)
  local links, id = require 'yue_client.link', next(client.link.exports)
  for _, release in ipairs { { id, 0 }, { id, -5 }, { id, true }, { 'x', 1 }, { id + 1, 9 }, {}, 5 } do
    links.handle_release(client.link, { release })
  end
  check.equal(client:functions_held(), 1)
  links.handle_release(client.link, { { id, 2 ^ 63 } })
  check.equal(client:functions_held(), 0)
end

function tests.a_legacy_server_gets_plain_messages()
  local server = check.hostile(LEGACY, '\148\1\1' .. array(mp.pack 'odd', mp.pack 'error') .. '\192')
  local client = check.open(server.address)
  check.run(client, function(c)
    local e = check.raises('RPCError', c.anything, 1)
    check.equal(e.value[2], 'error')
  end)
  check.equal(server.received:find('\148\0\206\0\0\0\1\168anything\145\1', 1, true) ~= nil, true)
end

function tests.a_late_request_is_not_started()
  local started = false
  local late = '\149\0\7\161f\144\129\161t\0'
  local server = check.hostile(GRANT, late .. '\148\1\1\192\1')
  local client = check.open(server.address, { symbols = { f = function() started = true end } })
  check.run(client, function(c) c.anything() end)
  check.wait('the answer', function() return server.received:find('TimeoutError', 1, true) end)
  check.equal(started, false)
end

function tests.a_peer_that_reads_nothing_is_bounded()
  local server = check.hostile(GRANT, check.STOP)
  local client = check.open(server.address, { output_high = 10000, output_max = 100000, held_max = 10000 })
  client:notify 'x'
  check.wait('the grant', function() return client:connected() end)
  local links, text = require 'yue_client.link', ('x'):rep(20000)
  -- The system takes more for a while; then a call is not even written.
  check.run(client, function(c)
    repeat
      while client:notify('x', text) do check.equal(links.queued(client.link) < 150000, true) end
    until check.raises('TimeoutError', c.timed_x, 0.05).retryable
  end)
end

function tests.no_request_starts_while_the_peer_reads_nothing()
  local requests, started = {}, 0
  for n = 0, 999 do requests[n + 1] = array(mp.pack(0), mp.pack(n), mp.pack 'large', '\144') end
  local cancel = array(mp.pack(2), mp.pack '$yue/cancel', array(mp.pack(999)))
  local client = check.open(check.hostile(GRANT, table.concat(requests) .. cancel, check.STOP).address, {
    output_high = 10000,
    symbols = {
      large = function()
        started = started + 1
        return ('x'):rep(20000)
      end,
    },
  })
  client:notify 'x'
  check.wait('the cancellation', function() return client.link and started + #client.link.waiting == 999 end)
  check.pass(0.05)
  check.equal(started < 900, true, started .. ' have started')
end

function tests.messages_in_pieces_are_put_together()
  local whole = GRANT .. '\148\1\1\192' .. array(mp.pack(('x'):rep(50)), mp.pack(1.5), '\192', mp.pack(('y'):rep(300)))
  local server = check.hostile()
  local client = check.open(server.address)
  local got
  client:call('anything', function(_, values) got = values end)
  check.wait('the link', function() return server.open[1] end)
  for i = 1, #whole do
    server.open[1].handle:send(whole:sub(i, i))
    client:update()
  end
  check.wait('the answer', function() return got end)
  check.equal(got[1], ('x'):rep(50))
  check.equal(got[4], ('y'):rep(300))
end

check.main(tests)
