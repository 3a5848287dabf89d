--! stderr: its request was refused with 403 for a page of https://evil.example: Pages of another host
-- One port for msgpack-rpc, WebSocket and HTTP.
local check = require 'check'
local raw = require 'raw'
local http = require 'http'

local accepted = 0
local symbols = {
  add = function(a, b) return a + b end,
  addr = function() return yue.peer():addr() end,
  __accept = function() accepted = accepted + 1 return true end,
}
local function listen(address)
  return yue.listen(address, { ws = true, http = { rpc = function() return true end } }, symbols)
end
local l = listen 'tcp://127.0.0.1:0'
local port = l:addr():match ':(%d+)$'
local tcp = yue.open(l:addr(), { no_cache = true }, nil)
local ws = yue.open('ws://127.0.0.1:' .. port, { no_cache = true }, nil)
check.equal(tcp.add(1, 2), 3)
check.equal(ws.add(3, 4), 7)
check.contains(tcp.addr(), 'tcp://127.0.0.1:')
check.contains(ws.addr(), 'ws://127.0.0.1:')
local status, body = http.post(l:addr(), '/rpc/add', '[5, 6]')
check.equal({ status, body }, { 200, '{"result":11}' })
check.equal(accepted, 2, 'HTTP has no handshake')

-- A page's origin counts for both.
local function upgrade(headers)
  local link = raw.connect(l:addr())
  link:send('GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
    .. 'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n' .. headers .. '\r\n')
  local answer = link:take()
  link:close()
  return tonumber(answer:match '^HTTP/1.1 (%d+) ')
end
check.equal(upgrade '', 101)
check.equal(upgrade 'Origin: http://localhost:8000\r\n', 101)
check.equal(upgrade 'Origin: https://evil.example\r\n', 403)
check.equal(http.post(l:addr(), '/rpc/add', '[5, 6]', 'Origin: https://evil.example\r\n'), 403)

-- Nothing runs for a client that says nothing, or speaks something else.
local before = accepted
local silent, strange = raw.connect(l:addr()), raw.connect(l:addr())
check.eventually(function() return l:stats().handshakes >= 1 end, 'they wait')
strange:send '\22\3\1\0\5'
check.eventually(function() return strange:listen() end, 'it is closed')
check.equal(accepted, before)
l:close()
check.eventually(function() return silent:listen() end, 'it ends with the listener')
silent:close()
strange:close()

-- A Unix socket.
local path = os.tmpname()
os.remove(path)
local unix = listen('unix://' .. path)
check.equal(yue.open(unix:addr(), { no_cache = true }, nil).add(1, 2), 3)
unix:close()

-- Addresses with one protocol.
local text = 'the option ws is for listeners at tcp://'
check.raises('ArgumentError', text, yue.listen, 'ws://127.0.0.1:0', { ws = true }, {})
check.raises('ArgumentError', 'the option ws is for listeners', yue.open, 'tcp://127.0.0.1:1', { ws = true }, nil)
check.raises('ArgumentError', 'ws is a boolean', yue.listen, 'tcp://127.0.0.1:0', { ws = 1 }, {})
check.done()
