-- yue.http: what servers send, byte by byte. Each answer comes whole, and again in small pieces.
local check = require 'check'
local scripted = require 'scripted'
local http = yue.http

-- By path: the bytes, and 'close' if the link ends after them.
local answers, pieces = {}, false
local server = scripted.serve(function(request, link)
  local bytes, ends = answers[request.path][1], answers[request.path][2]
  if not pieces then return bytes, ends end
  local size = math.max(1, math.ceil(#bytes / 40))
  for at = 1, #bytes, size do
    if not pcall(link.send, link, bytes:sub(at, at + size - 1)) then break end
    yue.sleep(0.0005)
  end
  return nil, ends
end)

local count = 0
local function get(bytes, ends, method)
  count = count + 1
  local path = '/' .. count
  answers[path] = { bytes, ends }
  return http.request { url = server.url .. path, method = method or 'GET', timeout = 10 }
end

--- That the answer has this body, and whether its connection is used again.
local function has(body, is_kept, bytes, ends, method)
  for _, cut in ipairs { false, true } do
    pieces = cut
    local r = get(bytes, ends, method)
    check.equal(r.body, body, bytes)
    local link = server.requests[#server.requests].link
    check.equal(get('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n').body, '')
    check.equal(server.requests[#server.requests].link == link, is_kept, bytes)
  end
end

local function fails(class, part, bytes, ends)
  for _, cut in ipairs { false, true } do
    pieces = cut
    check.raises(class, part, get, bytes, ends or 'close')
  end
end

local OK = 'HTTP/1.1 200 OK\r\n'

-- Chunks: sizes in any case, extensions, trailers.
has('Wikipedia', true, OK .. 'Transfer-Encoding: chunked\r\n\r\n4\r\nWiki\r\n5;a=b;c="d"\r\npedia\r\n0\r\n\r\n')
has('0123456789abcdef', true, OK .. 'Transfer-Encoding: chunked\r\n\r\n0A\r\n0123456789\r\n6\r\nabcdef\r\n'
  .. '0\r\nX-Trailer: 1\r\nContent-Length: 7\r\n\r\n')
has('', true, OK .. 'Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n')
-- The coding wins over a length (RFC 9112, section 6.3).
has('Wiki', true, OK .. 'Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nWiki\r\n0\r\n\r\n')
-- Cut off, or not chunks.
fails('ConnectionLostError', 'before the answer was whole', OK .. 'Transfer-Encoding: chunked\r\n\r\n4\r\nWiki\r\n')
fails('ConnectionLostError', 'before the answer was whole', OK .. 'Transfer-Encoding: chunked\r\n\r\n4\r\nWi')
fails('TransportError', 'is not HTTP', OK .. 'Transfer-Encoding: chunked\r\n\r\nzz\r\nWiki\r\n0\r\n\r\n')
fails('TransportError', 'is not HTTP', OK .. 'Transfer-Encoding: chunked\r\n\r\n4\r\nWikipedia\r\n0\r\n\r\n')
fails('TransportError', 'is not HTTP', OK .. 'Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx')

-- Lengths.
has('hello', true, OK .. 'Content-Length: 5\r\n\r\nhello')
has('hello', true, OK .. 'Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello')
has('', true, OK .. 'Content-Length: 0\r\n\r\n')
fails('ConnectionLostError', 'before the answer was whole', OK .. 'Content-Length: 6\r\n\r\nhello')
fails('TransportError', 'not HTTP', OK .. 'Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!')
fails('TransportError', 'not HTTP', OK .. 'Content-Length: -5\r\n\r\nhello')
fails('TransportError', 'not HTTP', OK .. 'Content-Length: 99999999999999999999999\r\n\r\nhello')

-- Neither: up to the end of the connection.
has('until the end', false, OK .. '\r\nuntil the end', 'close')
has('', false, OK .. '\r\n', 'close')
has('old', false, 'HTTP/1.0 200 OK\r\n\r\nold', 'close')
-- Connections of HTTP/1.0 are kept if the server says so, and those of 1.1 unless it says not.
has('old', false, 'HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold', 'close')
has('old', true, 'HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nold')
has('new', false, OK .. 'Connection: close\r\nContent-Length: 3\r\n\r\nnew')

-- Statuses and methods without a body.
has('', true, OK .. 'Content-Length: 5\r\n\r\n', nil, 'HEAD')
has('', true, OK .. 'Transfer-Encoding: chunked\r\n\r\n', nil, 'HEAD')
has('', true, 'HTTP/1.1 204 No Content\r\n\r\n')
has('', true, 'HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n')

-- Answers before the answer.
has('after', true, 'HTTP/1.1 100 Continue\r\n\r\n' .. OK .. 'Content-Length: 5\r\n\r\nafter')
has('after', true, 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n' .. OK
  .. 'Content-Length: 5\r\n\r\nafter')
fails('TransportError', 'switched to another protocol', 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nbytes')
fails('ConnectionLostError', 'before the answer was whole', 'HTTP/1.1 100 Continue\r\n\r\n')

-- Heads.
has('x', true, 'HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx')
has('x', true, OK .. 'x-empty:\r\nX-Spaces:  \t a b \t \r\nContent-Length: 1\r\n\r\nx')
check.equal(get(OK .. 'X-Spaces:  \t a b \t \r\nContent-Length: 0\r\n\r\n').headers['x-spaces'], 'a b')
check.equal(get(OK .. 'X-Bytes: \255\254\r\nContent-Length: 0\r\n\r\n').headers['x-bytes'], '\255\254')
pieces = false
check.equal(#get(OK .. 'X: ' .. ('x'):rep(30000) .. '\r\nContent-Length: 0\r\n\r\n').headers.x, 30000)
fails('MessageTooLargeError', 'the head of the answer', OK .. 'X: ' .. ('x'):rep(100000) .. '\r\n\r\n')
fails('MessageTooLargeError', 'too many headers', OK .. ('X: x\r\n'):rep(1000) .. '\r\n')
fails('TransportError', 'not HTTP', OK .. 'X y\r\n\r\n')
fails('TransportError', 'not HTTP', OK .. 'X : y\r\n\r\n')
fails('TransportError', 'not HTTP', OK .. 'X: a\1b\r\n\r\n')
fails('TransportError', 'not HTTP', OK .. 'X: a\r\n b\r\n\r\n')
fails('TransportError', 'not HTTP', 'garbage\r\n\r\n')
fails('TransportError', 'not HTTP', 'HTTP/1.1 20x OK\r\n\r\n')
fails('TransportError', 'not HTTP', '\0\1\2\3\r\n\r\n')
fails('TransportError', 'https://', '\21\3\1\0\2\2\40') -- an alert of TLS
fails('ConnectionLostError', 'before the answer was whole', '')
fails('ConnectionLostError', 'before the answer was whole', 'HTTP/1.1 200 O')

-- Bytes after an answer are not taken for the next one.
has('one', false, OK .. 'Content-Length: 3\r\n\r\none' .. OK .. 'Content-Length: 4\r\n\r\nevil')
pieces = false
local smuggle
local sly = scripted.serve(function(_, link)
  yue.spawn(function()
    -- After the first answer, while the connection is idle.
    check.eventually(function() return smuggle end)
    if smuggle == 'now' then pcall(link.send, link, OK .. 'Content-Length: 4\r\n\r\nevil') end
  end)
  return scripted.answer('good')
end)
local client = http.client { base = sly.url }
check.equal(client:get('/').body, 'good')
check.equal(client:idle(), 1)
smuggle = 'now'
check.eventually(function() return client:idle() == 0 end, 'the bytes end the idle connection')
smuggle = 'never'
check.equal(client:get('/').body, 'good')
check.equal(sly.links, 2)
client:close()
sly.stop()
server.stop()
check.done()
