--! stderr: the bytes are not a msgpack-rpc message
-- WebSocket: the same calls over ws://, for yue's peers and for any other; what is refused, and how that is said.
local check = require 'check'
local raw = require 'raw'

local closes = {}
local symbols = {
  add = function(a, b) return a + b end,
  ask = function(n) return yue.peer().procs.double(n) + 1 end,
  big = function(count) return ('x'):rep(count) end,
  addr = function() return yue.peer():addr() end,
  call = function(fn, ...) return fn(...) end,
  __close = function(_, reason) closes[#closes + 1] = reason end,
}
local l = yue.listen('ws://127.0.0.1:0/game', symbols)
local addr = l:addr()
check.that(addr:find '^ws://127%.0%.0%.1:%d+/game$', addr)

-- Calls in both directions, functions, megabytes.
local c = yue.open(addr, { no_cache = true }, { double = function(n) return 2 * n end })
check.equal(c.add(20, 22), 42)
check.equal(c.ask(4), 9)
check.equal(#c.big(3000000), 3000000)
check.equal(c.call(function(n) return n + 1 end, 6), 7)
check.that(c.addr():find '^ws://127%.0%.0%.1:%d+$', c.addr())
local futures = {}
for i = 1, 500 do futures[i] = c.async_add(i, i) end
for i = 1, 500 do check.equal({ futures[i]:sync() }, { true, 2 * i }) end

-- The reason of a close, both ways.
local reason
local conn = yue.conn(c)
conn:bind('close', function(why) reason = reason or why end)
l:connections()[1]:close 'the round is over'
check.eventually(function() return reason end, 'it hears why')
check.contains(tostring(reason), 'the round is over')
conn:close()

-- What is not at the address is refused, and the error says how.
local port = addr:match ':(%d+)/'
local function open(path) return yue.open('ws://127.0.0.1:' .. port .. path, { no_cache = true }, nil) end
check.raises('TransportError', '404 Not Found', function() open('/').add(1, 2) end)
check.raises('TransportError', 'ws://127.0.0.1:' .. port .. '/', function() open('/').add(1, 2) end)
check.raises('AddressError', 'port is missing', yue.listen, 'ws://127.0.0.1/game', {})
check.raises('AddressError', 'another listens there', yue.listen, addr, {})

-- A server that speaks msgpack-rpc over TCP takes the request for nonsense.
local tcp = yue.listen('tcp://127.0.0.1:0', symbols)
local wrong = yue.open(tcp:addr():gsub('tcp', 'ws'), { no_cache = true }, nil)
check.raises('TransportError', 'cannot connect to ws://', function() wrong.add(1, 2) end)
tcp:close()

-- A page's request, by its origin.
local function status(at, headers)
  local link = raw.connect('tcp://127.0.0.1:' .. at:match ':(%d+)/')
  link:send('GET /game HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
    .. 'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n' .. headers .. '\r\n')
  local answer = link:take()
  link:close()
  return tonumber(answer:match '^HTTP/1.1 (%d+) ')
end
check.equal(status(addr, ''), 101)
check.equal(status(addr, 'Origin: http://localhost:3000\r\n'), 101)
check.equal(status(addr, 'Origin: http://evil.example\r\n'), 403)
local listed = yue.listen('ws://127.0.0.1:0/game', { origins = { 'https://game.example', 'null' } }, symbols)
check.equal(status(listed:addr(), 'Origin: https://game.example\r\n'), 101)
check.equal(status(listed:addr(), 'Origin: null\r\n'), 101)
check.equal(status(listed:addr(), 'Origin: http://localhost\r\n'), 403)
check.equal(status(listed:addr(), ''), 101)
listed:close()
local none = yue.listen('ws://127.0.0.1:0/game', { origins = {} }, symbols)
check.equal(status(none:addr(), 'Origin: http://localhost\r\n'), 403)
none:close()

local bad = { 'https://game.example', { 'game.example' }, { 'https://game.example/' }, { 1 }, { a = 'b' } }
for _, origins in ipairs(bad) do
  check.raises('ArgumentError', 'the option origins is a list of origins', yue.listen, addr, { origins = origins }, {})
end

-- `__accept` runs after the upgrade: one that never asks for it costs no callback.
local accepted = 0
local slow = yue.listen('ws://127.0.0.1:0/game', { handshake_timeout = 0.2 }, {
  __accept = function()
    accepted = accepted + 1
    return 'welcome'
  end,
  add = symbols.add,
})
local function connect() return raw.connect('tcp://127.0.0.1:' .. slow:addr():match ':(%d+)/') end
local idle, begun = connect(), connect()
begun:send 'GET /game HTTP/1.1\r\n'
check.contains(begun:take(), 'HTTP/1.1 408 Request Timeout')
check.equal(idle:take(), nil, 'one that says nothing is closed')
begun:close()
check.equal(accepted, 0)
check.equal(yue.open(slow:addr(), { no_cache = true }, nil).add(1, 2), 3)
check.equal(accepted, 1)
idle:close()
slow:close()
l:close()
check.done()
