--! stderr: the handler of fail failed, called by http://127.0.0.1:
--! stderr: http.rpc failed for a request of http://127.0.0.1:
--! stderr: the grant is broken
-- POST /rpc/NAME: calls by HTTP, with JSON.
local check = require 'check'
local http = require 'http'

local events = {}
local seen
local symbols = {
  add = function(a, b) return a + b end,
  echo = function(...) return ... end,
  addr = function() return yue.peer():addr() end,
  ask = function() return yue.peer().procs.anything() end,
  deadline = function() return yue.deadline() end,
  fail = function() error 'it failed' end,
  raise = function() error(yue.errors.TimeoutError.new('too slow')) end,
  give = function() return function() end end,
  bytes = function() return '\255\254' end,
  thread = function() return coroutine.create(print) end,
  nan = function() return 0 / 0 end,
  keys = function() return { [3] = 'c' } end,
  nothing = function() end,
  three = function() return 1, nil, 'c' end,
  deep = { inside = { f = function(t) return t.a.b[2] end } },
  _hidden = function() return 'no' end,
  __accept = function() events[#events + 1] = 'accept' return true end,
  __open = function() events[#events + 1] = 'open' end,
  __close = function() events[#events + 1] = 'close' end,
}
local l = yue.listen('tcp://127.0.0.1:0', {
  http = {
    rpc = function(request)
      seen = request
      if request.headers['x-broken'] then error 'the grant is broken' end
      if request.headers['x-odd'] then return 'not you' end
      -- It may wait.
      yue.sleep(0.001)
      return request.headers.authorization == 'Bearer good'
    end,
  },
}, symbols)
for _, event in ipairs { 'accept', 'close' } do
  l:bind(event, function() events[#events + 1] = event .. ' of the listener' end)
end

local function post(name, body, more)
  local status, text = http.post(l:addr(), '/rpc/' .. name, body, (more or '') .. 'Authorization: Bearer good\r\n')
  return status, text
end
local function result(name, body) return select(2, post(name, body)) end

check.equal(result('add', '[20, 22]'), '{"result":42}')
check.equal(result('deep.inside.f', '[{"a": {"b": [1, "\\u00fc"]}}]'), '{"result":"\195\188"}')
check.equal(result('echo', '[[1, 2], {"a": {}}, "x", 1.5, true]'), '{"result":[[1,2],{"a":[]},"x",1.5,true]}')
check.equal(result('nothing', ''), '{"result":null}')
check.equal(result('three', '[]'), '{"result":[1,null,"c"]}')
check.equal(result('keys', '[]'), '{"result":{"3":"c"}}')
check.contains(result('addr', '[]'), '"http://127.0.0.1:')
local left = tonumber(result('deadline', '[]'):match ':([%d.]+)}')
check.that(left > 0 and left <= 5, left)

-- The request, as the grant sees it.
post('add?x=1', '[1, 2]', 'X-A: 1\r\nX-A: 2\r\n')
check.equal({ seen.name, seen.method, seen.path, seen.headers['x-a'] }, { 'add', 'POST', '/rpc/add?x=1', '1, 2' })
check.contains(seen.address, 'http://127.0.0.1:')
check.equal(seen.peer_name, nil)

-- Errors.
local function fails(status, class, part, name, body, more)
  local got, text = post(name, body or '[]', more)
  check.equal(got, status, name)
  check.contains(text, '"type":"' .. class .. '"')
  check.contains(text, part)
  check.that(not text:find 'traceback', text)
end
fails(500, 'RuntimeError', 'it failed', 'fail')
fails(504, 'TimeoutError', 'too slow', 'raise')
fails(404, 'NoMethodError', 'missing', 'missing')
fails(404, 'NoMethodError', '', '_hidden')
fails(404, 'NoMethodError', '', '__accept')
fails(404, 'NoMethodError', '', 'deep._x')
fails(404, 'NoMethodError', '', '$yue%2Fdescribe')
fails(404, 'NoMethodError', 'anything', 'ask')
fails(400, 'ArgumentError', 'array', 'add', '{"a": 1}')
fails(400, 'ArgumentError', 'line 1', 'add', '[1, ')
fails(500, 'ServerError', 'holds a function', 'give')
fails(500, 'ServerError', 'UTF-8', 'bytes')
fails(500, 'ServerError', 'cannot send results[1]', 'thread')
fails(500, 'ServerError', 'not finite', 'nan')
fails(500, 'ServerError', 'failed to decide', 'add', '[]', 'X-Broken: 1\r\n')
fails(500, 'ServerError', 'failed to decide', 'add', '[]', 'X-Odd: 1\r\n')
check.equal(http.post(l:addr(), '/rpc/add', '[1, 2]'), 403)
check.equal(http.post(l:addr(), '/metrics', ''), 404)
check.equal(http.post(l:addr(), '/rpc/add', '[]', 'Origin: https://evil.example\r\n'), 403)

-- The same functions by msgpack-rpc; its handshake alone runs the callbacks.
check.eventually(function() return #l:connections() == 0 end, 'all have ended')
check.equal(events, {})
local c = yue.open(l:addr(), { no_cache = true }, nil)
check.equal(c.add(1, 2), 3)
yue.conn(c):close()
check.eventually(function() return #events == 5 end, 'it has ended')
table.sort(events)
check.equal(events, { 'accept', 'accept of the listener', 'close', 'close of the listener', 'open' })
local stats = l:stats()
check.equal(stats.methods.add.calls, 3)
check.equal(stats.methods.fail.errors, 1)
check.equal(stats.connections, 0)

-- Origins, and no function that grants.
local listed = yue.listen('tcp://127.0.0.1:0', {
  http = { rpc = function() return true end, origins = { 'https://game.example' } },
}, symbols)
local status, _, headers = http.post(listed:addr(), '/rpc/add', '[1, 2]', 'Origin: https://game.example\r\n')
check.equal({ status, headers['access-control-allow-origin'] }, { 200, 'https://game.example' })
check.equal(http.post(listed:addr(), '/rpc/add', '[1, 2]', 'Origin: http://localhost\r\n'), 403)
listed:close()
local closed = yue.listen('tcp://127.0.0.1:0', { http = {} }, symbols)
check.equal(http.post(closed:addr(), '/rpc/add', '[1, 2]'), 404)
closed:close()

-- Options that do not fit.
local function refused(part, ...) check.raises('ArgumentError', part, ...) end
refused('the option http is a table { rpc', yue.listen, 'tcp://127.0.0.1:0', { http = true }, {})
refused('whose rpc is a function', yue.listen, 'tcp://127.0.0.1:0', { http = { rpc = 1 } }, {})
refused('whose origins are a list', yue.listen, 'tcp://127.0.0.1:0', { http = { origins = 'a' } }, {})
refused('without metrics', yue.listen, 'tcp://127.0.0.1:0', { http = { metrics = true } }, {})
refused('is for listeners at tcp://', yue.listen, 'thread://http', { http = {} }, {})
refused('is for listeners; to open', yue.open, l:addr(), { http = {} }, nil)
l:close()
check.done()
