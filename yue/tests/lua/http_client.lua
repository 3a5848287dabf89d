-- yue.http: requests and their answers.
local check = require 'check'
local scripted = require 'scripted'
local answer = scripted.answer
local http = yue.http

local server = scripted.serve(function(request)
  local path = request.path:match '^[^?]*'
  if path == '/echo' then
    return answer(('%s %s %s'):format(request.method, request.path, request.body))
  elseif path == '/json' then
    return answer('{"a": [1, 2], "b": {}}', nil, 'Content-Type: application/json\r\n')
  elseif path == '/headers' then
    local cookies = 'Set-Cookie: a=1, b\r\nSet-Cookie: c=2\r\n'
    return answer('', '200 Fine Indeed', 'X-One: 1\r\nX-Two: a\r\nx-two: b\r\n' .. cookies)
  elseif path == '/status' then
    return answer('no ' .. request.path:match '%d+', request.path:match '%d+' .. ' Some Reason')
  elseif path == '/none' then
    return 'HTTP/1.1 204 No Content\r\n\r\n'
  elseif path == '/head' then
    return 'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n'
  end
  return answer('')
end)
local url = server.url
local function last() return server.requests[#server.requests] end

-- An answer.
local r = http.get(url .. '/echo?x=1#part')
check.equal({ r.status, r.reason, r.version, r.body }, { 200, 'OK', '1.1', 'GET /echo?x=1 ' })
check.equal(r.url, url .. '/echo?x=1')
check.that(r:ok())
check.equal(tostring(r), 'response 200 OK of ' .. url .. '/echo?x=1')
check.equal(last().headers.host, url:match '//(.*)')
check.equal(last().headers.accept, '*/*')
check.equal(last().headers['accept-encoding'], 'identity')
check.equal(last().headers['user-agent'], 'yue/' .. yue.version)
check.equal(last().headers['content-length'], nil)
check.equal(http.get(url .. '/json'):json(), { a = { 1, 2 }, b = {} })

-- Names of headers in any case; repeated ones joined, but for cookies.
r = http.get(url .. '/headers')
check.equal(r.reason, 'Fine Indeed')
check.equal({ r.headers['X-One'], r.headers['x-one'], r.headers['X-TWO'] }, { '1', '1', 'a, b' })
check.equal(r.headers['Set-Cookie'], { 'a=1, b', 'c=2' })
check.equal(r.headers.missing, nil)
check.equal(r.headers[1], nil)

-- Statuses raise nothing, unless that is asked for.
r = http.get(url .. '/status?404')
check.equal({ r.status, r.reason, r.body, r:ok() }, { 404, 'Some Reason', 'no 404', false })
check.equal(http.get(url .. '/status?500', { check = false }).status, 500)
local e = check.raises('CallError', 'GET ' .. url .. '/status?404 was answered with 404 Some Reason: no 404',
  http.get, url .. '/status?404', { check = true })
check.equal({ e.code, e.value.status, e.value.body }, { 404, 404, 'no 404' })
check.raises('ServerError', '503', http.get, url .. '/status?503', { check = true })
check.equal(http.get(url .. '/status?299', { check = true }).status, 299)

-- Answers without a body.
check.equal(http.get(url .. '/none').body, '')
r = http.head(url .. '/head')
check.equal({ r.status, r.body, r.headers['content-length'] }, { 200, '', '1000' })
check.equal(http.get(url .. '/echo').body, 'GET /echo ')
check.raises('RuntimeError', 'has no body', http.get(url .. '/none').json, http.get(url .. '/none'))

-- Bodies.
check.equal(http.post(url .. '/echo', 'text').body, 'POST /echo text')
check.equal({ last().headers['content-type'], last().headers['content-length'] }, { nil, '4' })
check.equal(http.put(url .. '/echo', { a = 1 }).body, 'PUT /echo {"a":1}')
check.equal(last().headers['content-type'], 'application/json')
check.equal(http.patch(url .. '/echo', nil, { json = { 1, 2 } }).body, 'PATCH /echo [1,2]')
check.equal(http.post(url .. '/echo', nil, { form = { b = 'x y&z', a = { 1, true } } }).body,
  'POST /echo a=1&a=true&b=x%20y%26z')
check.equal(last().headers['content-type'], 'application/x-www-form-urlencoded')
check.equal(http.delete(url .. '/echo').body, 'DELETE /echo ')
check.equal(http.post(url .. '/echo').body, 'POST /echo ')
check.equal(last().headers['content-length'], '0')
check.equal(http.delete(url .. '/echo', { body = 'which' }).body, 'DELETE /echo which')
local big = ('x'):rep(300000)
check.equal(http.post(url .. '/echo', big, { timeout = 60 }).body, 'POST /echo ' .. big)

-- In pieces: a function, and anything with `read`.
local pieces = { 'one', '', 'two', ('3'):rep(200000) }
local at = 0
r = http.post(url .. '/echo', function()
  at = at + 1
  yue.sleep(0.001)
  return pieces[at]
end)
check.equal(r.body, 'POST /echo onetwo' .. pieces[4])
check.equal({ last().headers['transfer-encoding'], last().headers['content-length'] }, { 'chunked', nil })
check.that(last().chunks >= 3, last().chunks)
check.equal(http.post(url .. '/echo', function() end).body, 'POST /echo ')
local p = yue.process.spawn { 'printf', 'from a process' }
check.equal(http.post(url .. '/echo', p.out).body, 'POST /echo from a process')

-- A function that fails, or returns something else: its error is raised, and the connection is closed.
local links = server.links
check.raises('RuntimeError', 'no more', http.post, url .. '/echo', function() error 'no more' end)
check.raises('ArgumentError', 'a piece of a body is a string', http.post, url .. '/echo', function() return 1 end)
check.equal(http.get(url .. '/echo').body, 'GET /echo ')
check.equal(last().link, server.links)
check.that(server.links > links, 'the connections before are closed')
check.eventually(function() return server.open == 1 end, 'they are closed')

-- The query and the headers.
check.equal(http.get(url .. '/echo', { query = { q = 'a b', n = { 1, 2 }, ['ü'] = true } }).body,
  'GET /echo?n=1&n=2&q=a%20b&%C3%BC=true ')
check.equal(http.get(url .. '/echo?a=1#x', { query = 'b=2' }).body, 'GET /echo?a=1&b=2 ')
check.equal(http.get(url .. '/echo', { query = {} }).body, 'GET /echo ')
check.equal(http.get(url .. '/a b/ü').status, 200)
check.equal(last().path, '/a%20b/%C3%BC')
http.get(url, {
  headers = { ['X-A'] = 'b', ['user-agent'] = 'me', Accept = false, ['X-N'] = 5, ['X-L'] = { 'p', 'q' } },
})
check.equal(last().path, '/')
check.equal({ last().headers['x-a'], last().headers['user-agent'], last().headers.accept, last().headers['x-n'] },
  { 'b', 'me', nil, '5' })
check.contains(last().head:lower(), 'x-l: p\r\nx-l: q')
http.get(url, { headers = { Host = 'example.com' } })
check.equal(last().headers.host, 'example.com')
http.get((url:gsub('//', '//me%%40x:p%%26q@')))
check.equal(last().headers.authorization, 'Basic ' .. yue.crypto.base64('me@x:p&q'))
http.get((url:gsub('//', '//me:pw@')), { headers = { authorization = 'Bearer 1' } })
check.equal(last().headers.authorization, 'Bearer 1')

-- request{}.
check.equal(http.request { url = url .. '/echo', method = 'post', body = 'x' }.body, 'POST /echo x')
check.equal(http.request { url = url .. '/echo' }.body, 'GET /echo ')
check.equal(http.request { url = url .. '/echo', method = 'REPORT' }.body, 'REPORT /echo ')

-- A socket of the file system.
local directory = yue.fs.temp()
local listener = yue.listen('unix://' .. directory .. '/s', { http = { rpc = function() return true end } }, {
  add = function(a, b) return a + b end,
})
r = http.post('http://localhost/rpc/add', { 20, 22 }, { socket = directory .. '/s' })
check.equal({ r.status, r:json().result }, { 200, 42 })
check.raises('AddressError', 'begins with http://', http.get, 'https://localhost/', { socket = directory .. '/s' })
listener:close()

-- Texts that would become other requests.
local function refused(class, part, ...) check.raises(class, part, ...) end
refused('AddressError', 'line break', http.get, url .. '/\r\nX: 1')
refused('AddressError', 'line break', http.get, url .. '/\n')
refused('AddressError', 'space', http.get, ' ' .. url)
refused('ArgumentError', 'X-A contains a line break', http.get, url, { headers = { ['X-A'] = 'a\r\nX-B: 1' } })
refused('ArgumentError', 'zero byte', http.get, url, { headers = { ['X-A'] = { 'a\0b' } } })
refused('ArgumentError', 'a name that is not one', http.get, url, { headers = { ['X-A\r\n'] = 'a' } })
refused('ArgumentError', 'is not the name of a header', http.get, url, { headers = { ['X A'] = 'a' } })
refused('ArgumentError', 'a character that a header cannot hold', http.get, url, { headers = { ['X-A'] = 'a\1' } })
refused('ArgumentError', 'belongs to the connection', http.get, url, { headers = { ['Content-Length'] = 5 } })
refused('ArgumentError', 'belongs to the connection', http.get, url, { headers = { ['transfer-encoding'] = 'x' } })
refused('ArgumentError', 'not a method', http.request, { url = url, method = 'GET /x HTTP/1.1\r\n' })

-- What is not a URL.
refused('AddressError', 'begins with http://', http.get, 'example.com')
refused('AddressError', 'begins with http://', http.get, 'ftp://example.com')
refused('AddressError', 'begins with http://', http.get, '')
refused('AddressError', 'is not the URL', http.get, 'http://')
refused('AddressError', 'port', http.get, 'http://localhost:99999/')
refused('AddressError', 'port', http.get, 'http://localhost:0/')
refused('AddressError', 'is not the URL', http.get, 'http://[::1/')
refused('ArgumentError', 'the URL is a string, not nil', http.get)
refused('ArgumentError', 'the URL is a string', http.request, {})

-- Options that do not fit.
refused('ArgumentError', 'there is no option time_out; there are: body, ', http.get, url, { time_out = 1 })
refused('ArgumentError', 'there is no option method', http.get, url, { method = 'POST' })
refused('ArgumentError', 'options are a table', http.get, url, 5)
refused('ArgumentError', 'it takes a table', http.request, url)
refused('ArgumentError', 'the option timeout is a number above 0 or false', http.get, url, { timeout = 0 })
refused('ArgumentError', 'the option redirects is a number, 0 or more', http.get, url, { redirects = -1 })
refused('ArgumentError', 'the option check is a boolean', http.get, url, { check = 1 })
refused('ArgumentError', 'headers is a table', http.get, url, { headers = 'X: 1' })
refused('ArgumentError', 'is a string, a number or a list', http.get, url, { headers = { x = true } })
refused('ArgumentError', 'twice', http.get, url, { headers = { x = '1', X = '2' } })
refused('ArgumentError', 'query is a table', http.get, url, { query = 5 })
refused('ArgumentError', 'the keys of query are strings', http.get, url, { query = { 'a' } })
refused('ArgumentError', 'query.a is a string', http.get, url, { query = { a = { {} } } })
refused('ArgumentError', 'one of body, json and form', http.post, url, 'x', { json = 1 })
refused('ArgumentError', 'the body is given twice', http.post, url, 'x', { body = 'y' })
refused('ArgumentError', 'the body is a string, a table', http.post, url, 5)
refused('ArgumentError', 'ca', http.get, (url:gsub('http', 'https')), { ca = '/nowhere/ca.pem' })

-- Failures of the connection.
local nobody = yue.listen('tcp://127.0.0.1:0', {})
local closed = nobody:addr():gsub('tcp', 'http')
nobody:close()
e = check.raises('ConnectionRefusedError', 'cannot connect to', http.get, closed)
check.that(e.retryable)
refused('ConnectionRefusedError', 'cannot connect', http.get, 'http://localhost/', { socket = directory .. '/none' })

server.stop()
check.done()
