--! stderr: the handler of fail failed, called by ws://127.0.0.1:
-- Routes that are WebSockets: requests to an HTTP server become yue's connections.
local check = require 'check'
local http = require 'http'
local raw = require 'raw'

local events, seen = {}, {}
local symbols = {
  add = function(a, b) return a + b end,
  ask = function(n) return yue.peer().procs.double(n) + 1 end,
  addr = function() return yue.peer():addr() end,
  big = function(count) return ('x'):rep(count) end,
  fail = function() error 'it failed' end,
  __accept = function() events[#events + 1] = 'accept' return true end,
  __close = function() events[#events + 1] = 'close' end,
}
local s = yue.http.serve('tcp://127.0.0.1:0', {
  before = function(req)
    seen[#seen + 1] = req.path
    if req.query.token == 'bad' then return 401, 'not you\n' end
  end,
}, {
  ['WS /rpc'] = symbols,
  ['GET /rpc'] = 'a page at the same path',
  ['WS /game'] = yue.http.websocket({ origins = { 'https://game.example' } }, { name = function() return 'game' end }),
  ['GET /'] = 'home',
})
local addr = s:addr()
local at = addr:gsub('tcp', 'ws')

-- Calls in both directions, and megabytes.
local c = yue.open(at .. '/rpc', { no_cache = true }, { double = function(n) return 2 * n end })
check.equal(c.add(20, 22), 42)
check.equal(c.ask(4), 9)
check.equal(#c.big(300000), 300000)
check.that(c.addr():find '^ws://127%.0%.0%.1:%d+$', c.addr())
check.raises('RuntimeError', 'it failed', c.fail)
check.equal(seen, { '/rpc' })
check.equal(events, { 'accept' })

-- Each route has its own functions, and is a listener of its own.
local game = yue.open(at .. '/game', { no_cache = true }, nil)
check.equal(game.name(), 'game')
check.raises('NoMethodError', 'add', game.add, 1, 2)
local rpc = s.websockets['/rpc']
check.equal({ #rpc:connections(), #s.websockets['/game']:connections() }, { 1, 1 })
check.equal(rpc:addr(), at .. '/rpc')
check.equal(rpc:stats().methods.add.calls, 1)
rpc.namespace.later = function() return 'later' end
check.equal(c.later(), 'later')
-- They are not the server's connections any more.
check.eventually(function() return s:connections() == 0 end, 'they have been handed over')

-- A connection that has asked for something else before.
local link = raw.connect(addr)
link:send 'GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n'
check.contains(link:take(), 'home')
local UPGRADE = ' HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
  .. 'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n'
-- With a call right behind it: [0, 1, 'add', [1, 2]] in a masked frame, whose key is 0.
local call = '\148\0\1\163add\146\1\2'
link:send('GET /rpc' .. UPGRADE .. '\r\n' .. '\130' .. string.char(128 + #call) .. '\0\0\0\0' .. call)
local text = ''
check.eventually(function()
  link:listen()
  text = link.heard
  return text:find('\148\1\1\192\3', 1, true)
end, 'the answer of the call')
check.contains(text, 'HTTP/1.1 101 Switching Protocols\r\n')
check.contains(text, 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=')
link:close()

-- What is refused.
local function refused(status, path, change)
  local request = 'GET ' .. path .. UPGRADE .. '\r\n'
  if change then request = change(request) end
  local got = http.parse(http.send(addr, (request:gsub('Connection: Upgrade', 'Connection: Upgrade, close'))))
  check.equal(got, status, path)
end
refused(404, '/other')
refused(401, '/rpc?token=bad')
refused(403, '/rpc', function(text) return (text:gsub('\r\n\r\n', '\r\nOrigin: https://evil.example\r\n\r\n')) end)
refused(403, '/game', function(text) return (text:gsub('\r\n\r\n', '\r\nOrigin: http://127.0.0.1\r\n\r\n')) end)
refused(426, '/rpc', function(text) return (text:gsub('Version: 13', 'Version: 12')) end)
refused(400, '/rpc', function(text) return (text:gsub('dGhl', 'x')) end)
check.equal(select(2, http.ask(addr, 'GET /rpc')), 'a page at the same path')
local status, body, headers = http.ask(addr, 'GET /game')
check.equal({ status, headers.upgrade }, { 426, 'websocket' })
check.contains(body, 'WebSocket')
status, _, headers = http.ask(addr, 'POST /game', nil, '')
check.equal({ status, headers.allow }, { 405, 'GET, OPTIONS' })
local wrong = yue.open(at .. '/other', { no_cache = true }, nil)
check.raises('TransportError', nil, wrong.add, 1, 2)

-- The end of the server ends them.
check.equal(#rpc:connections(), 1)
s:close()
check.equal(rpc.closed, true)
check.eventually(function() return not yue.conn(c):connected() end, 'they end')
yue.conn(c):close()
yue.conn(game):close()
check.eventually(function() return events[#events] == 'close' end)

-- What cannot be.
local function fails(part, routes)
  check.raises('ArgumentError', part, yue.http.serve, 'tcp://127.0.0.1:0', routes)
end
fails('no parameters', { ['WS /:id'] = {} })
fails('no parameters', { ['WS /*'] = {} })
fails("have a route 'WS /path'", { ['GET /x'] = yue.http.websocket {} })
fails('__acept is not a callback', { ['WS /x'] = { __acept = print } })
fails('symbols are a table', { ['WS /x'] = 7 })
check.raises('ArgumentError', 'there is no option orign', yue.http.websocket, { orign = {} }, {})
check.raises('ArgumentError', 'is for yue.open', yue.http.websocket, { retry = true }, {})
check.raises('ArgumentError', 'listeners with a socket', yue.http.websocket, { cert = 'x' }, {})
check.raises('ArgumentError', 'options and symbols', yue.http.websocket, {}, {}, {})
check.done()
