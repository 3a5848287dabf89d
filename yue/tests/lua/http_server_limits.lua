--! stderr: the body of the answer to GET /gone failed
-- The limits of the HTTP server: slow clients, clients that leave, connections, and the end of a server.
local check = require 'check'
local http = require 'http'
local raw = require 'raw'

local ended, steps, errors = 0, 0, {}
local s = yue.http.serve('tcp://127.0.0.1:0', {
  head_timeout = 0.3, idle_timeout = 0.6, body_timeout = 0.3, write_timeout = 0.5, connections_max = 3,
}, {
  ['GET /'] = 'home',
  ['POST /body'] = function(req) return #req:body() .. ' bytes' end,
  ['POST /waits'] = function(req)
    -- The time of the handler is not the client's.
    yue.sleep(0.5)
    return #req:body() .. ' bytes'
  end,
  ['POST /chunks'] = function(req)
    local ok, e = pcall(function()
      for _ in req:chunks() do steps = steps + 1 end
    end)
    errors[#errors + 1] = ok and 'none' or e.type .. ' ' .. tostring(e.code)
    if not ok then error(e, 0) end
    return 'read'
  end,
  ['GET /slow'] = function()
    yue.sleep(0.15)
    ended = ended + 1
    return 'slow'
  end,
  ['GET /endless'] = function()
    return function()
      steps = steps + 1
      return ('x'):rep(65536)
    end
  end,
  ['GET /ticks'] = function()
    return function()
      yue.sleep(0.005)
      steps = steps + 1
      return 'tick\n'
    end
  end,
  ['GET /gone'] = function(req)
    local w = req:respond(200)
    local ok, e = pcall(function()
      while true do
        w:write(('x'):rep(65536))
        yue.sleep(0.001)
      end
    end)
    errors[#errors + 1] = ok and 'none' or e.type
    error 'after the client has gone'
  end,
})
local addr = s:addr()

local function connect(bytes)
  local link = raw.connect(addr)
  if bytes then link:send(bytes) end
  return link
end

--- All that comes until the server ends the connection, and how long that took.
local function all_of(link)
  local began, parts = yue.now(), {}
  for part in function() return link:take() end do parts[#parts + 1] = part end
  link:close()
  return table.concat(parts), yue.now() - began
end

-- A head that does not come: silence for an idle connection, 408 for one that has begun.
local text, took = all_of(connect())
check.equal(text, '')
check.that(took >= 0.5, took)
text, took = all_of(connect 'GET / HTTP/1.1\r\nHost:')
check.contains(text, 'HTTP/1.1 408 Request Timeout\r\n')
check.that(took >= 0.25, took)
-- Also if a byte comes now and then.
local link = connect 'GET / HTTP/1.1\r\n'
yue.spawn(function()
  for _ = 1, 10 do
    yue.sleep(0.1)
    pcall(link.send, link, 'X')
  end
end)
check.contains(link:take(), 'HTTP/1.1 408')
yue.sleep(1)
link:close()
-- After an answer, too.
link = connect 'GET / HTTP/1.1\r\nHost: a\r\n\r\n'
check.contains(link:take(), 'home')
text, took = all_of(link)
check.equal(text, '')
check.that(took >= 0.5, took)

-- A body that does not come.
local function body(path, length, start)
  return ('POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s'):format(path, length, start)
end
text = all_of(connect(body('/body', 10, 'abc')))
check.contains(text, 'HTTP/1.1 408')
check.contains(text, 'the body did not arrive in time')
text = all_of(connect(body('/chunks', 10, 'abc')))
check.contains(text, 'HTTP/1.1 408')
check.equal(errors, { 'RuntimeError 408' })
-- Byte by byte is too slow as well.
link = connect(body('/body', 100, ''))
yue.spawn(function()
  for _ = 1, 12 do
    yue.sleep(0.06)
    pcall(link.send, link, 'x')
  end
end)
check.contains(link:take(), 'HTTP/1.1 408')
yue.sleep(0.8)
link:close()
-- But the handler may take its time before it reads.
link = connect(body('/waits', 3, 'abc'))
check.contains(link:take(), '3 bytes')
link:close()

-- A client that reads nothing.
check.eventually(function() return s:connections() == 0 end)
steps = 0
link = connect 'GET /endless HTTP/1.1\r\nHost: a\r\n\r\n'
check.eventually(function() return s:connections() == 1 and steps > 3 end, 'it streams')
check.eventually(function() return s:connections() == 0 end, 'it is given up')
-- Bounded by the buffers of both sides.
check.that(steps < 500, steps)
link:close()

-- Clients that leave: a stream stops, a handler runs to its end.
steps = 0
link = connect 'GET /ticks HTTP/1.1\r\nHost: a\r\n\r\n'
check.eventually(function() return steps > 3 end, 'it streams')
link:close()
check.eventually(function() return s:connections() == 0 end, 'the stream stops')
link = connect 'GET /slow HTTP/1.1\r\nHost: a\r\n\r\n'
check.eventually(function() return s:connections() == 1 end)
yue.sleep(0.02)
link:close()
check.eventually(function() return ended == 1 end, 'the handler runs to its end')
check.eventually(function() return s:connections() == 0 end)
errors = {}
link = connect 'GET /gone HTTP/1.1\r\nHost: a\r\n\r\n'
check.that(link:take())
link:close()
check.eventually(function() return errors[1] end, 'the writer notices')
check.equal(errors[1], 'ConnectionLostError')
link = connect(body('/chunks', 100, 'abc'))
errors = {}
check.eventually(function() return s:connections() == 1 end)
yue.sleep(0.02)
link:close()
check.eventually(function() return errors[1] end, 'the reader notices')
check.eventually(function() return s:connections() == 0 end)

-- Too many connections are told so.
local links = {}
for i = 1, 3 do
  links[i] = connect 'GET / HTTP/1.1\r\nHost: a\r\n\r\n'
  check.contains(links[i]:take(), 'home')
end
check.equal(s:connections(), 3)
check.contains(all_of(connect()), 'HTTP/1.1 503 Service Unavailable\r\n')
for i = 1, 3 do links[i]:close() end
check.eventually(function() return s:connections() == 0 end)

-- The end of a server: no more connections, idle ones end, a request is answered, a stream is cut.
local idle = connect 'GET / HTTP/1.1\r\nHost: a\r\n\r\n'
check.contains(idle:take(), 'home')
local busy = connect 'GET /slow HTTP/1.1\r\nHost: a\r\n\r\n'
local stream = connect 'GET /ticks HTTP/1.1\r\nHost: a\r\n\r\n'
check.contains(stream:take(), 'tick')
check.equal(s:connections(), 3)
s:close()
check.equal(all_of(idle), '')
text = all_of(busy)
check.contains(text, 'slow')
check.contains(text:lower(), 'connection: close')
text = all_of(stream)
check.that(not text:find('\r\n0\r\n', 1, true), 'its end shows that it was cut')
local ok = pcall(raw.connect, addr)
check.equal(ok, false, 'nobody listens')
check.done()
