-- yue.http: bodies in pieces, limits of size and time, and requests that are stopped.
local check = require 'check'
local scripted = require 'scripted'
local http = yue.http
local answer = scripted.answer

local CHUNKED = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
local function chunk(text) return ('%x\r\n%s\r\n'):format(#text, text) end

local go, sent = 0, 0
local gone = {}
local server = scripted.serve(function(request, link)
  if request.path == '/steps' then
    link:send(CHUNKED .. chunk 'one\ntw')
    check.eventually(function() return go >= 1 end)
    link:send(chunk 'o\nthree')
    check.eventually(function() return go >= 2 end)
    return chunk '\n\nend' .. '0\r\n\r\n'
  elseif request.path == '/silent' then
    -- Until the client leaves.
    gone.silent = link:take() == nil
    return nil, 'close'
  elseif request.path == '/half' then
    link:send 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf'
    gone.half = link:take() == nil
    return nil, 'close'
  elseif request.path == '/endless' then
    -- Up to the end of the link, so that a piece may be sent in part.
    link:send 'HTTP/1.1 200 OK\r\n\r\n'
    local piece = ('x'):rep(16000)
    while true do
      if pcall(link.send, link, piece) then
        sent = sent + #piece
      else
        if link:listen() then break end
        yue.sleep(0.002)
      end
    end
    gone.endless = true
    return nil, 'close'
  elseif request.path == '/big' then
    return answer(('x'):rep(10000))
  elseif request.path == '/big-chunked' then
    return CHUNKED .. chunk(('x'):rep(5000)) .. chunk(('x'):rep(5000)) .. '0\r\n\r\n'
  elseif request.path == '/cut' then
    return 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf', 'close'
  end
  return answer(request.path)
end)
local client = http.client { base = server.url }

-- As it comes.
local r = client:get('/steps', { stream = true })
check.equal({ r.status, r.body, r.headers['transfer-encoding'] }, { 200, nil, 'chunked' })
check.equal(r:read(), 'one\ntw')
go = 1
check.equal(r:read(), 'o\nthree')
go = 2
check.equal({ r:read(), r:read(), r:read() }, { '\n\nend' })
check.equal(client:idle(), 1)
local lines = {}
for line in client:get('/steps', { stream = true }):lines() do lines[#lines + 1] = line end
check.equal(lines, { 'one', 'two', 'three', '', 'end' })
local whole = {}
for piece in client:get('/steps', { stream = true }):chunks() do whole[#whole + 1] = piece end
check.equal(table.concat(whole), 'one\ntwo\nthree\n\nend')
r = client:get('/steps', { stream = true })
check.equal({ r:line(), r:read(3), r:read '*a', r:read() }, { 'one', 'two', '\nthree\n\nend' })
-- One that was read whole has the same methods.
r = client:get '/steps'
check.equal({ r:line(), r:read(3) }, { 'one', 'two' })
check.equal(r.body, 'one\ntwo\nthree\n\nend')
for piece in r:chunks() do check.equal(piece, '\nthree\n\nend') end
check.raises('ArgumentError', 'read takes', r.read, r, -1)
r:close()

-- A wait that is stopped loses nothing.
go = 0
r = client:get('/steps', { stream = true })
check.equal(r:read(), 'one\ntw')
check.raises('TimeoutError', nil, yue.timeout, 0.01, r.read, r)
go = 2
check.equal(r:read '*a', 'o\nthree\n\nend')

-- Closing. The connection cannot be used again, and nothing more can be read.
r = client:get('/half', { stream = true })
check.equal(r:read(), 'half')
r:close()
check.eventually(function() return gone.half end)
check.raises('ConnectionLostError', 'was closed', r.read, r)
r:close()
r = client:get('/half', { stream = true })
local waiting = yue.spawn(function()
  r:read()
  return r:read()
end)
yue.sleep(0.02)
check.raises('RuntimeError', 'another fiber waits', r.read, r)
gone.half = nil
r:close()
local ok, e = waiting:sync()
check.equal({ ok, e.type }, { false, 'ConnectionLostError' })
check.eventually(function() return gone.half end)
-- One that the program has lost.
gone.half = nil
client:get('/half', { stream = true }):read()
r = nil
check.eventually(function() collectgarbage() return gone.half end, 'it is collected')

-- Nobody reads: the server has to wait, and this side keeps little.
r = client:get('/endless', { stream = true })
local before
check.eventually(function()
  local now = sent
  yue.sleep(0.1)
  before = sent
  return now == before and now > 0
end, 'the server waits')
-- The kernel's buffers on both sides, and at most a few hundred kilobytes here.
check.that(before < 16e6, before)
local read = 0
while read < before + 1e6 do read = read + #r:read() end
check.that(sent > before, 'it continues')
r:close()
check.eventually(function() return gone.endless end)

-- Limits of size.
check.equal(#client:get('/big', { body_max = 10000 }).body, 10000)
e = check.raises('MessageTooLargeError', 'more than 9999 bytes; raise body_max', client.get, client, '/big',
  { body_max = 9999 })
check.that(e:is_a 'MessageRefusedError')
check.equal(#client:get('/big-chunked', { body_max = 10000 }).body, 10000)
check.raises('MessageTooLargeError', 'stream = true', client.get, client, '/big-chunked', { body_max = 9999 })
check.raises('MessageTooLargeError', '16777216', client.get, client, '/endless')
check.equal(client:get('/next').body, '/next')

-- The body ends early: what has come is not taken for all of it.
check.raises('ConnectionLostError', 'before the answer was whole', client.get, client, '/cut')
r = client:get('/cut', { stream = true })
check.equal(r:read(), 'half')
check.raises('ConnectionLostError', 'before the answer was whole', r.read, r)
r = client:get('/cut', { stream = true })
check.raises('ConnectionLostError', nil, r.read, r, '*a')

-- Limits of time, and cancels: the connection is closed, and nothing is left.
e = check.raises('TimeoutError', 'GET ' .. server.url .. '/silent was not answered within 0.05 s', client.get, client,
  '/silent', { timeout = 0.05 })
check.eventually(function() return gone.silent end)
check.raises('TimeoutError', 'was not answered', client.get, client, '/half', { timeout = 0.05 })
check.raises('TimeoutError', nil, yue.timeout, 0.05, client.get, client, '/silent')
r = client:get('/half', { stream = true, timeout = 0.2 })
check.equal(r:read(), 'half')
check.raises('TimeoutError', nil, r.read, r)
r:close()
gone.silent = nil
local fiber = yue.spawn(client.get, client, '/silent', { timeout = false })
yue.sleep(0.02)
fiber:cancel()
ok, e = fiber:sync()
check.equal({ ok, e.type }, { false, 'CancelledError' })
check.eventually(function() return gone.silent end)
-- While it connects: the backlog is full, or nobody answers.
local full = yue.spawn(client.get, client, 'http://127.0.0.1:1/', { timeout = 30 })
full:cancel()
ok, e = full:sync()
check.equal({ ok, e.type }, { false, 'CancelledError' })

-- The server answers before it has read the body, and closes.
local raw = require 'raw'
local address, stop = raw.serve(function(link)
  local text = ''
  while not text:find('\r\n\r\n', 1, true) do text = text .. (link:take() or '\r\n\r\n') end
  link:send 'HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo long'
  yue.sleep(0.05)
  link:close()
end)
local there = address:gsub('tcp', 'http')
r = http.post(there, ('x'):rep(30e6))
check.equal({ r.status, r.body }, { 413, 'too long' })
local taken = 0
r = http.post(there, function()
  taken = taken + 1
  yue.sleep(0.001)
  return ('x'):rep(1000)
end, { timeout = 60 })
check.equal({ r.status, r.body }, { 413, 'too long' })
check.that(taken < 10000, taken)
stop()

-- The answer and the end of the link have come when the next piece is to be sent.
local has_closed
taken = 0
address, stop = raw.serve(function(link)
  check.eventually(function() return taken == 2 end)
  yue.sleep(0.02)
  link:send(answer(('too long'):rep(5000), '413 Content Too Large'))
  yue.sleep(0.02)
  -- It has read nothing, so that the end is a reset.
  link:close()
  has_closed = true
end)
there = address:gsub('tcp', 'http')
r = http.post(there, function()
  taken = taken + 1
  if taken == 2 then
    check.eventually(function() return has_closed end)
    yue.sleep(0.02)
  end
  return ('x'):rep(1000)
end, { timeout = 60 })
check.equal({ r.status, #r.body }, { 413, 40000 })
stop()

-- The server answers while it reads: the rest of the body is sent, and the answer read, at the same time.
address, stop = raw.serve(function(link)
  local got = ''
  link:send((CHUNKED:gsub('\r\n\r\n', '\r\nConnection: close\r\n\r\n')))
  while not got:find('0\r\n\r\n', 1, true) do
    local more = link:take()
    if not more then break end
    got = got .. more
    link:send(chunk(('%d;'):format(#more)))
  end
  link:send '0\r\n\r\n'
  link:take()
  link:close()
end)
there = address:gsub('tcp', 'http')
local left = 50
local function pieces()
  left = left - 1
  if left >= 0 then
    yue.sleep(0.001)
    return ('y'):rep(1000)
  end
end
local total = 0
for size in http.post(there, pieces, { timeout = 60 }).body:gmatch '%d+' do total = total + size end
check.that(total > 50000, total)
left, total = 50, 0
for piece in http.post(there, pieces, { stream = true, timeout = 60 }):chunks() do
  for size in piece:gmatch '%d+' do total = total + size end
end
check.that(total > 50000, total)
stop()

client:close()
check.eventually(function() return server.open == 0 end, 'nothing is left')
server.stop()
check.done()
