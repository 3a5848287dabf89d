--! stderr: the handler of GET /raises failed, asked by http://127.0.0.1:
--! stderr: it is broken
--! stderr: http_server.lua:
--! stderr: the handler of GET /odd/status failed
--! stderr: the body of the answer to GET /stream/raises failed
--! stderr: the body of the answer to GET /stream/long failed
-- yue.http.serve: routes, requests, answers, and what is refused.
local check = require 'check'
local http = require 'http'

local function value(what)
  return function() return what end
end

local writer_error, kept
local routes = {
  ['GET /'] = 'home',
  ['GET /json'] = { a = { 1, 2 } },
  ['GET /users/:id'] = function(req) return 200, 'user ' .. req.params.id end,
  ['GET /users/me'] = 'me',
  ['DELETE /users/:name'] = function(req) return 200, 'gone: ' .. req.params.name end,
  ['GET /users/:id/posts/:post'] = function(req) return req.params end,
  ['GET /files/*path'] = function(req) return 'file ' .. req.params.path end,
  ['GET /files/:one'] = function(req) return 'one ' .. req.params.one end,
  ['GET /all/*'] = function(req) return ('[%s] [%s]'):format(req.params.rest, req.rest) end,
  ['GET /caf%C3%A9'] = 'coffee',
  ['* /any'] = function(req) return req.method end,
  ['/any2'] = function(req) return req.method end,
  ['PURGE /cache'] = 'purged',
  ['HEAD /only-head'] = function() return 200, nil, { ['content-length'] = 1234, ['x-a'] = 'b' } end,
  ['OPTIONS /own'] = function() return 200, 'own options' end,
  ['GET /request'] = function(req)
    return {
      method = req.method, path = req.path, query = req.query, all = req.queries, query_string = req.query_string,
      headers = req.headers, one = req:header 'X-One', version = req.version, peer = req.peer, cookies = req.cookies,
      none = req:header 'x-none' == nil, name = req.client_name == nil, params = next(req.params) == nil,
    }
  end,
  ['POST /body'] = function(req) return 200, req:body() .. '|' .. req:body() end,
  ['POST /json'] = function(req) return { got = req:json() } end,
  ['POST /form'] = function(req)
    local first, all = req:form()
    return { first = first, all = all }
  end,
  ['POST /chunks'] = function(req)
    local count, size = 0, 0
    for piece in req:chunks() do count, size = count + 1, size + #piece end
    return ('%s %d'):format(count > 0, size)
  end,
  ['POST /unread'] = 'not read',
  ['POST /caught'] = function(req)
    local ok, e = pcall(req.json, req)
    return 200, ('%s %s'):format(ok, e.code)
  end,
  -- Forms of answers.
  ['GET /none'] = function() end,
  ['GET /status'] = function() return 202 end,
  ['GET /three'] = function() return 201, 'made', { location = '/x', ['X-List'] = { 'a', 'b' }, ['x-number'] = 7 } end,
  ['GET /html'] = function() return 200, '<p>', { ['Content-Type'] = 'text/html' } end,
  ['GET /alone'] = function() return 'alone', { ['x-a'] = 'b' } end,
  ['GET /empty'] = function() return 200, '' end,
  ['GET /table'] = function() return 403, { reason = 'no' } end,
  ['GET /number'] = function() return 200, 42 end,
  ['GET /cookies'] = function() return 200, 'ok', { ['set-cookie'] = { 'a=1', 'b=2' } } end,
  ['GET /close'] = function() return 200, 'bye', { connection = 'close' } end,
  ['GET /stream'] = function()
    local at = 0
    return function()
      at = at + 1
      yue.sleep(0.001)
      if at <= 3 then return at == 2 and '' or 'piece ' .. at .. ';' end
    end
  end,
  ['GET /stream/sized'] = function()
    local at = 0
    return 200, function()
      at = at + 1
      return at <= 2 and 'abc' or nil
    end, { ['content-length'] = 6 }
  end,
  ['GET /stream/short'] = function()
    local at = 0
    return 200, function()
      at = at + 1
      return at <= 1 and 'abc' or nil
    end, { ['content-length'] = 6 }
  end,
  ['GET /stream/long'] = function()
    return 200, function() return 'abc' end, { ['content-length'] = 6 }
  end,
  ['GET /writer/long'] = function(req)
    local w = req:respond(200, { ['content-length'] = 5 })
    w:write 'abc'
    writer_error = select(2, pcall(w.write, w, 'def'))
    w:write 'de'
  end,
  ['GET /stream/raises'] = function()
    local at = 0
    return function()
      at = at + 1
      if at > 1 then error 'in the middle' end
      return 'begun'
    end
  end,
  ['GET /channel'] = function()
    local ch = yue.channel(1)
    yue.spawn(function()
      for i = 1, 3 do ch:put('c' .. i) end
      ch:close()
    end)
    return ch
  end,
  ['GET /writer'] = function(req)
    local w = req:respond(200, { ['x-w'] = 'yes' })
    w:write 'first,'
    w:write 'second'
    writer_error = select(2, pcall(req.respond, req, 200))
    return 500, 'ignored'
  end,
  ['GET /raises'] = function() error 'it is broken' end,
  ['GET /late'] = function(req)
    kept = req
    return 200
  end,
  ['GET /slow'] = function()
    yue.sleep(0.05)
    return 'slow'
  end,
}
for name, fn in pairs {
  status = value '1',
  ['100'] = function() return 100, 'x' end,
  fraction = function() return 200.5 end,
  text = function() return true end,
  headers = function() return nil, 'an error, as Lua says it' end,
  line = function() return 200, 'x', { ['x-a'] = 'b\r\nx-evil: 1' } end,
  name = function() return 200, 'x', { ['x a'] = 'b' } end,
  list = function() return 200, 'x', { ['x-a'] = { true } } end,
  length = function() return 200, 'x', { ['content-length'] = 5 } end,
  encoding = function() return 200, 'x', { ['transfer-encoding'] = 'chunked' } end,
  body = function() return 204, 'text' end,
  functions = function() return { print } end,
} do
  routes['GET /odd/' .. name] = name == 'status' and function() return 'x', 7 end or fn
end
local s = yue.http.serve('tcp://127.0.0.1:0', routes)
local addr = s:addr()
check.that(addr:find '^tcp://127%.0%.0%.1:%d+$', addr)
check.equal(s:url(), (addr:gsub('tcp', 'http')))

local function get(path, headers) return http.ask(addr, 'GET ' .. path, headers) end
local function post(path, body, headers) return http.ask(addr, 'POST ' .. path, headers, body) end
local function text(path)
  local status, body = get(path)
  check.equal(status, 200, path)
  return body
end

-- Routes.
check.equal(text '/', 'home')
check.equal(text '/users/7', 'user 7')
check.equal(text '/users/me', 'me')
check.equal(text '/users/a%20b%2Fc', 'user a b/c')
check.equal(yue.json.decode(text '/users/7/posts/x'), { id = '7', post = 'x' })
check.equal(text '/files/a', 'one a')
check.equal(text '/files/a/b', 'file a/b')
check.equal(text '/files/', 'file ')
check.equal(text '/all/x/y', '[x/y] [x/y]')
check.equal(text '/all/', '[] []')
check.equal(text '/caf%c3%a9', 'coffee')
check.equal(select(2, http.ask(addr, 'DELETE /users/7')), 'gone: 7')
check.equal(select(2, http.ask(addr, 'PATCH /any')), 'PATCH')
check.equal(select(2, http.ask(addr, 'OPTIONS /any2')), 'OPTIONS')
check.equal(select(2, http.ask(addr, 'PURGE /cache')), 'purged')
for _, path in ipairs { '/users', '/users/', '/users/7/', '/users/7/posts', '/x', '//', '/any/', '/USERS/7' } do
  check.equal(get(path), 404, path)
end
for _, path in ipairs { '/users/%', '/users/%2', '/users/%zz', '/%gg' } do check.equal(get(path), 400, path) end
local status, body, headers = http.ask(addr, 'PUT /users/7')
check.equal({ status, headers.allow }, { 405, 'DELETE, GET, HEAD, OPTIONS' })
check.contains(body, 'not allowed')
status, body, headers = http.ask(addr, 'OPTIONS /users/7')
check.equal({ status, body, headers.allow }, { 204, '', 'DELETE, GET, HEAD, OPTIONS' })
check.equal(select(2, http.ask(addr, 'OPTIONS /own')), 'own options')
status, _, headers = http.ask(addr, 'OPTIONS *')
check.equal(status, 204)
check.contains(headers.allow, 'PATCH')
check.equal(http.ask(addr, 'GET *'), 404)

-- HEAD: the headers of GET, without a body.
status, _, headers = http.ask(addr, 'HEAD /')
check.equal({ status, headers['content-length'], headers['content-type'] }, { 200, '4', 'text/plain; charset=utf-8' })
check.equal(http.parse(http.send(addr, 'HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'), true), 200)
check.equal(select(4, http.parse(http.send(addr, 'HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'), true)), '')
status, _, headers = http.ask(addr, 'HEAD /stream')
check.equal({ status, headers['content-length'] }, { 200, nil })
status, _, headers = http.ask(addr, 'HEAD /only-head')
check.equal({ status, headers['content-length'], headers['x-a'] }, { 200, '1234', 'b' })
check.equal(get '/only-head', 405)

-- The request.
local r = yue.json.decode(text '/request?a=1&b=x+y&a=%32&c&=d')
check.equal({ r.method, r.path, r.query_string }, { 'GET', '/request', 'a=1&b=x+y&a=%32&c&=d' })
check.equal(r.query, { a = '1', b = 'x y', c = '', [''] = 'd' })
check.equal(r.all.a[2], '2')
check.equal({ r.version, r.none, r.name, r.params }, { '1.1', true, true, true })
check.that(r.peer:find '^http://127%.0%.0%.1:%d+$', r.peer)
_, body = get('/request', { ['X-One'] = '1', ['x-one'] = '2', ['Cookie'] = 'a=1; b="two"; a=3' })
r = yue.json.decode(body)
check.that(r.one == '1, 2' or r.one == '2, 1', r.one)
check.equal(r.headers['x-one'], r.one)
check.equal(r.cookies, { a = '1', b = 'two' })
check.equal(get '/request?a=%f', 400)

-- Bodies.
check.equal(select(2, post('/body', 'abc')), 'abc|abc')
check.equal(select(2, post('/body', '')), '|')
check.equal(select(2, http.ask(addr, 'POST /body')), '|')
check.equal(#select(2, post('/body', ('x'):rep(70000))), 140001)
check.equal(select(2, post('/json', '{"a": [1, null]}')), '{"got":{"a":[1,null]}}')
status, body = post('/json', '{"a": ')
check.equal(status, 400)
check.contains(body, 'the body is not JSON: ')
check.equal(post('/json', ''), 400)
check.equal(select(2, post('/caught', 'x')), 'false 400')
r = yue.json.decode(select(2, post('/form', 'a=1&a=2&b=%C3%BC+x')))
check.equal(r.first, { a = '1', b = '\195\188 x' })
check.equal(#r.all.a, 2)
check.equal(select(2, post('/chunks', ('y'):rep(50000))), 'true 50000')
check.equal(select(2, post('/chunks', '')), 'false 0')
check.equal(select(2, post('/unread', ('z'):rep(1000))), 'not read')
local chunked = 'POST /body HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n'
  .. '3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n'
check.equal(select(2, http.parse(http.send(addr, chunked))), 'abcde|abcde')

-- Answers.
status, body, headers = get '/none'
check.equal({ status, body, headers['content-length'] }, { 204, '', nil })
check.equal((get '/status'), 202)
status, body, headers = get '/three'
check.equal({ status, body, headers.location }, { 201, 'made', '/x' })
check.equal({ headers['x-list'], headers['x-number'] }, { 'a, b', '7' })
check.equal(select(3, get '/html')['content-type'], 'text/html')
status, body, headers = get '/alone'
check.equal({ status, body, headers['x-a'] }, { 200, 'alone', 'b' })
status, body, headers = get '/empty'
check.equal({ status, body, headers['content-length'] }, { 200, '', '0' })
status, body, headers = get '/table'
check.equal({ status, body, headers['content-type'] }, { 403, '{"reason":"no"}', 'application/json' })
check.equal(text '/number', '42')
check.equal(text '/json', '{"a":[1,2]}')
check.equal(select(3, get '/cookies')['set-cookie'], 'a=1, b=2')
check.equal(select(3, get '/close').connection, 'close')
status, body, headers = get '/stream'
check.equal({ status, body, headers['transfer-encoding'] }, { 200, 'piece 1;piece 3;', 'chunked' })
status, body, headers = get '/stream/sized'
check.equal({ body, headers['content-length'], headers['transfer-encoding'] }, { 'abcabc', '6', nil })
check.contains(http.send(addr, 'GET /stream/short HTTP/1.1\r\nHost: a\r\n\r\n'), '\r\n\r\nabc')
-- More than the stated length is an error, and is not sent.
check.equal(select(2, get '/stream/long'), 'abcabc')
check.equal(select(2, get '/writer/long'), 'abcde')
check.contains(writer_error.msg, 'longer than its header content-length')
local cut = http.send(addr, 'GET /stream/raises HTTP/1.1\r\nHost: a\r\n\r\n')
check.contains(cut, '5\r\nbegun\r\n')
check.that(not cut:find('\r\n0\r\n', 1, true), 'the end shows that the rest is missing')
check.equal(text '/channel', 'c1c2c3')
status, body, headers = get '/writer'
check.equal({ status, body, headers['x-w'] }, { 200, 'first,second', 'yes' })
check.contains(writer_error.msg, 'answered already')

-- A handler's error, and an answer that cannot be sent: 500, and nothing of it.
for _, path in ipairs { '/raises', '/odd/status', '/odd/100', '/odd/fraction', '/odd/text', '/odd/headers', '/odd/line',
  '/odd/name', '/odd/list', '/odd/length', '/odd/encoding', '/odd/body', '/odd/functions' } do
  status, body, headers = get(path)
  check.equal({ status, body }, { 500, 'the server failed to answer this request\n' }, path)
  check.equal(headers['x-evil'], nil)
end
-- A request's parts are there in its handler only.
get '/late'
check.raises('RuntimeError', 'has been answered', function() return kept.headers end)
check.raises('RuntimeError', 'has been answered', kept.body, kept)
check.raises('RuntimeError', 'has been answered', kept.header, kept, 'a')
check.raises('RuntimeError', 'has been answered', kept.chunks, kept)
check.raises('RuntimeError', 'has been answered', kept.respond, kept, 200)
check.raises('ArgumentError', 'the name of a header', kept.header, kept)

-- Keep-alive and pipelining: in order, over one connection.
local link = require 'raw'.connect(addr)
link:send(('GET /slow HTTP/1.1\r\nHost: a\r\n\r\n'):rep(2) .. 'GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
local all = ''
for part in function() return link:take() end do all = all .. part end
link:close()
local bodies = {}
while all ~= '' do
  _, body, _, all = http.parse(all)
  bodies[#bodies + 1] = body
end
check.equal(bodies, { 'slow', 'slow', 'home' })
check.eventually(function() return s:connections() == 0 end, 'no connection is left')

-- Before each request; one function for all; addresses.
local seen = 0
local b = yue.http.serve('http://127.0.0.1:0', {
  before = function(req)
    seen = seen + 1
    req.user = req:header 'authorization'
    if not req.user then return 401, 'who are you?', { ['www-authenticate'] = 'Bearer' } end
  end,
}, function(req) return ('%s asks for %s'):format(req.user, req.path) end)
check.equal(http.ask(b:addr(), 'GET /x'), 401)
check.equal(select(2, http.ask(b:addr(), 'GET /x/y%20?q', { authorization = 'bob' })), 'bob asks for /x/y%20')
check.equal(seen, 2)
b:close()
check.equal(b:connections(), 0)
b:close()
check.contains(tostring(b), 'closed')
s:close()

-- What cannot be served.
local function refused(class, part, ...) check.raises(class, part, yue.http.serve, ...) end
refused('ArgumentError', 'takes an address', nil, {})
refused('ArgumentError', 'takes routes', 'tcp://127.0.0.1:0')
refused('ArgumentError', 'takes routes', 'tcp://127.0.0.1:0', 7)
refused('ArgumentError', 'an address is tcp://', 'udp://127.0.0.1:0', {})
refused('ArgumentError', 'an address, options and routes', 'tcp://127.0.0.1:0', {}, {}, {})
refused('AddressError', nil, 'tcp://', {})
refused('ArgumentError', 'has no option prot', 'tcp://127.0.0.1:0', { prot = 1 }, {})
refused('ArgumentError', 'body_max is a number of at least 1', 'tcp://127.0.0.1:0', { body_max = 0 }, {})
refused('ArgumentError', 'the option before is a function', 'tcp://127.0.0.1:0', { before = 1 }, {})
refused('ArgumentError', 'the options are a table', 'tcp://127.0.0.1:0', 1, {})
for key, part in pairs {
  ['GET'] = "like 'GET /users/:id'",
  ['get /x'] = 'in upper case',
  ['GET x'] = "begins with '/'",
  ['GET /x?y'] = 'without query',
  ['GET /:'] = "a parameter is ':name'",
  ['GET /*a/b'] = 'the last segment',
  ['GET /:a/:a'] = 'two parameters',
  ['GET /%g'] = 'an escape is',
  ['CONNECT /x'] = 'for proxies',
  ['GET /a b c'] = "like 'GET /users/:id'",
} do
  refused('ArgumentError', part, 'tcp://127.0.0.1:0', { [key] = value 'x' })
end
refused('ArgumentError', 'a route is a function', 'tcp://127.0.0.1:0', { ['GET /'] = true })
refused('ArgumentError', 'a route is a string', 'tcp://127.0.0.1:0', { 'GET /' })
refused('ArgumentError', 'have another route', 'tcp://127.0.0.1:0', { ['GET /:a'] = 'x', ['GET /:b'] = 'y' })
check.done()
