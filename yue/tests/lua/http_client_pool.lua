-- yue.http: connections that are used again, and those that must not be.
local check = require 'check'
local scripted = require 'scripted'
local http = yue.http
local answer = scripted.answer

-- Requests one after another share a connection; those at once have one each, which later ones use.
local held = 0
local server = scripted.serve(function(request)
  if request.path == '/wait' then
    held = held + 1
    check.eventually(function() return held >= 10 end)
  end
  return answer(request.path)
end)
local client = http.client { base = server.url }
for i = 1, 20 do check.equal(client:get('/' .. i).body, '/' .. i) end
check.equal({ server.links, client:idle() }, { 1, 1 })
local futures = {}
for i = 1, 10 do futures[i] = yue.spawn(function() return client:get('/wait').body end) end
for _, future in ipairs(futures) do check.equal(future:get(), '/wait') end
check.equal({ server.links, client:idle() }, { 10, 10 })
futures = {}
for i = 1, 100 do
  futures[i] = yue.spawn(function()
    for k = 1, 5 do check.equal(client:get(('/%d/%d'):format(i, k)).body, ('/%d/%d'):format(i, k)) end
  end)
end
for _, future in ipairs(futures) do future:get() end
check.that(server.links <= 100, server.links)
check.equal(#server.requests, 530)
client:close()
check.equal(client:idle(), 0)
check.eventually(function() return server.open == 0 end, 'a closed client has no connections')
check.raises('RuntimeError', 'is closed', client.get, client, '/')
client:close()
check.equal(tostring(client), 'http client (closed)')

-- The number of idle connections, and their age, are limited.
client = http.client { base = server.url .. '/', idle_max = 3 }
held, futures = 0, {}
for i = 1, 10 do futures[i] = yue.spawn(function() return client:get('wait').body end) end
for _, future in ipairs(futures) do check.equal(future:get(), '/wait') end
check.equal(client:idle(), 3)
check.eventually(function() return server.open == 3 end, 'the others are closed')
client:close()
client = http.client { base = server.url, idle_time = 0.05 }
client:get('x')
check.equal(client:idle(), 1)
check.eventually(function() return client:idle() == 0 and server.open == 0 end, 'it is too old')
client:close()
client = http.client { base = server.url, idle_max = 0 }
client:get('x')
check.equal(client:idle(), 0)
client:close()

-- Options of the connection divide the pool; other options do not.
client = http.client { base = server.url, headers = { ['X-A'] = '1', ['X-B'] = '2' }, timeout = 60 }
client:get('/x', { headers = { ['x-b'] = '3' }, timeout = 50 })
local last = server.requests[#server.requests]
check.equal({ last.headers['x-a'], last.headers['x-b'] }, { '1', '3' })
client:get '/y'
check.equal(server.requests[#server.requests].link, last.link)
check.equal(client:get(server.url .. '/other').body, '/other')
check.equal(client:request { url = 'z', method = 'PUT' }.body, '/z')
check.equal(client:post('p/q', 'x').body, '/p/q')
client:close()

-- The server closes an idle connection: it leaves the pool at once.
local ends
local closing = scripted.serve(function(request, link)
  link:send(answer(request.path))
  check.eventually(function() return ends end)
  return nil, 'close'
end)
client = http.client { base = closing.url }
client:get '/then-close'
check.equal(client:idle(), 1)
ends = true
check.eventually(function() return client:idle() == 0 end, 'the end of the link removes it')
client:close()
closing.stop()

-- A connection that is closed in the moment of the next request. The server reads the request, and closes without a
-- byte of an answer: what cannot have run twice, or may, is sent once more.
local seen = {}
local dropping = scripted.serve(function(request)
  seen[#seen + 1] = request.method .. ' ' .. request.path
  if request.path == '/drop' and not seen[request.method] then
    seen[request.method] = true
    return nil, 'close'
  end
  return answer('ok')
end)
client = http.client { base = dropping.url, timeout = 30 }
for _, method in ipairs { 'GET', 'HEAD', 'PUT', 'DELETE', 'OPTIONS' } do
  client:get '/' -- so that the connection comes from the pool
  check.equal(client:request { url = '/drop', method = method }.status, 200, method)
end
for _, method in ipairs { 'POST', 'PATCH', 'REPORT' } do
  client:get '/'
  local e = check.raises('ConnectionLostError', 'may have run', client.request, client, {
    url = '/drop', method = method, body = 'x',
  })
  check.equal(e.retryable, false)
end
local posts = 0
for _, line in ipairs(seen) do posts = posts + (line == 'POST /drop' and 1 or 0) end
check.equal(posts, 1)
-- A body in pieces that were taken cannot be repeated.
seen = {}
client:get '/'
check.raises('ConnectionLostError', 'may have run', client.put, client, '/drop', coroutine.wrap(function()
  coroutine.yield 'x'
  coroutine.yield(nil)
end))
-- A new connection is not retried: the server is broken.
seen = { GET = false }
client:close()
client = http.client { base = dropping.url }
check.raises('ConnectionLostError', 'before the answer was whole', client.get, client, '/drop')
check.equal(seen[2], nil)
client:close()

-- An answer that has begun is not asked again.
local begun = 0
local half = scripted.serve(function(request)
  if request.path == '/' then return answer('ok') end
  begun = begun + 1
  return 'HTTP/1.1 200 OK\r\nContent-Le', 'close'
end)
client = http.client { base = half.url }
client:get '/'
check.raises('ConnectionLostError', 'before the answer was whole', client.get, client, '/half')
check.equal(begun, 1)
client:close()
half.stop()

-- Options of clients that do not fit.
check.raises('ArgumentError', 'is for single requests', http.client, { body = 'x' })
check.raises('ArgumentError', 'idle_max is a number, 0 or more', http.client, { idle_max = -1 })
check.raises('ArgumentError', 'there is no option url', http.client, { url = 'x' })
check.raises('AddressError', 'begins with http', http.client, { base = 'localhost' })
check.raises('ArgumentError', 'line break', http.client, { headers = { x = 'a\nb' } })

-- A client that the program has lost closes its connections.
http.client({ base = server.url }):get '/lost'
check.eventually(function() collectgarbage() return server.open == 0 end, 'it is collected')

-- Idle connections do not hold the program: it ends although the shared client has some.
local code = ("print(yue.http.get('%s/program').body)"):format(server.url)
local run = yue.process.run { '/proc/self/exe', '-e', code, timeout = 60 }
check.equal({ run.code, run.out }, { 0, '/program\n' })
server.stop()
dropping.stop()
check.done()
