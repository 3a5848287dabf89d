-- The bytes of HTTP/1.1: what RFC 9112 allows and what it forbids, and requests that hide another one.
local check = require 'check'
local http = require 'http'
local raw = require 'raw'

local served = {}
local s = yue.http.serve('tcp://127.0.0.1:0', { head_max = 8192, headers_max = 20, body_max = 1000 }, function(req)
  served[#served + 1] = req.path
  if req.path == '/unread' then return 'unread' end
  return 200, ('%s %s [%s]'):format(req.method, req.path, req:body())
end)
local addr = s:addr()

--- Sends the bytes, whose last request ends the connection; the list of the answers.
local function ask(bytes)
  served = {}
  local text = http.send(addr, bytes)
  local answers = {}
  while text and text ~= '' do
    local status, body, headers, rest = http.parse(text, bytes:find '^HEAD' ~= nil)
    answers[#answers + 1] = { status = status, body = body, headers = headers }
    text = rest
  end
  return answers
end

--- The one answer, after which the server ends the connection by itself.
local function only(status, bytes, what)
  local answers = ask(bytes)
  check.equal(#answers, 1, what or bytes)
  check.equal(answers[1].status, status, what or bytes)
  return answers[1]
end

local HOST = 'Host: a\r\n'
local CLOSE = HOST .. 'Connection: close\r\n'

local function fine(body, bytes)
  local answer = only(200, bytes)
  check.equal(answer.body, body, bytes)
  check.equal(#served, 1)
  return answer
end

--- A refusal that no handler sees.
local function refused(status, bytes, what)
  only(status, bytes, what)
  check.equal(served, {}, what or bytes)
end

-- Requests as they may be.
fine('GET / []', 'GET / HTTP/1.1\r\n' .. CLOSE .. '\r\n')
fine('GET / []', '\r\n\r\nGET / HTTP/1.1\r\n' .. CLOSE .. '\r\n')
fine('GET / []', 'GET / HTTP/1.1\nHost: a\nConnection: close\n\n')
fine('GET /x []', 'GET http://a/x HTTP/1.1\r\n' .. CLOSE .. '\r\n')
fine('GET / []', 'GET / HTTP/1.1\r\nHost:a  \r\nConnection: close\r\n\r\n')
fine('GET / []', 'GET / HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n')
fine('GET / []', 'GET / HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n')
fine('POST / [abc]', 'POST / HTTP/1.1\r\n' .. CLOSE .. 'Content-Length: 3\r\n\r\nabc')
fine('POST / [abc]', 'POST / HTTP/1.1\r\n' .. CLOSE .. 'Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc')
fine('GET / [abc]', 'GET / HTTP/1.1\r\n' .. CLOSE .. 'Content-Length: 3\r\n\r\nabc')
check.equal(only(200, 'HEAD / HTTP/1.1\r\n' .. CLOSE .. '\r\n').body, '')

-- Chunks: extensions and trailers are dropped.
local CHUNKED = CLOSE .. 'Transfer-Encoding: chunked\r\n\r\n'
fine('POST / [abcde]', 'POST / HTTP/1.1\r\n' .. CHUNKED .. '3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n')
fine('POST / [abc]', 'POST / HTTP/1.1\r\n' .. CHUNKED .. '3;name=value;other="x y"\r\nabc\r\n0\r\n\r\n')
fine('POST / [abc]', 'POST / HTTP/1.1\r\n' .. CHUNKED .. '3\r\nabc\r\n0\r\nX-Trailer: 1\r\nHost: evil\r\n\r\n')
fine('POST / [0123456789abcdef]', 'POST / HTTP/1.1\r\n' .. CHUNKED .. '0010\r\n0123456789abcdef\r\n0\r\n\r\n')
fine('POST / []', 'POST / HTTP/1.1\r\n' .. CHUNKED .. '0\r\n\r\n')
for what, body in pairs {
  ['no number'] = 'x\r\nabc\r\n0\r\n\r\n',
  ['a sign'] = '-3\r\nabc\r\n0\r\n\r\n',
  ['a prefix'] = '0x3\r\nabc\r\n0\r\n\r\n',
  ['too large a number'] = 'fffffffffffffffff\r\nabc\r\n0\r\n\r\n',
  ['too few bytes'] = '4\r\nabc\r\n0\r\n\r\n',
  ['too many bytes'] = '2\r\nabc\r\n0\r\n\r\n',
  ['a bare line feed'] = '3\nabc\r\n0\r\n\r\n',
  ['no size'] = '\r\nabc\r\n0\r\n\r\n',
} do
  only(400, 'POST / HTTP/1.1\r\n' .. HOST .. 'Transfer-Encoding: chunked\r\n\r\n' .. body, what)
end

-- Two lengths, or a length and chunks: one of two programs in a row would see a hidden request.
local SMUGGLED = 'GET /smuggled HTTP/1.1\r\n' .. HOST .. '\r\n'
local function hides(bytes, what)
  local answers = ask(bytes)
  check.equal(#answers, 1, what)
  for _, path in ipairs(served) do check.that(path ~= '/smuggled', what) end
  return answers[1].status
end
refused(400, 'POST / HTTP/1.1\r\n' .. HOST .. 'Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd' .. SMUGGLED)
refused(400, 'POST / HTTP/1.1\r\n' .. HOST .. 'Content-Length: 3, 3\r\n\r\nabc' .. SMUGGLED)
refused(400, 'POST / HTTP/1.1\r\n' .. HOST .. 'Content-Length: +3\r\n\r\nabc' .. SMUGGLED)
refused(400, 'POST / HTTP/1.1\r\n' .. HOST .. 'Content-Length: -3\r\n\r\nabc' .. SMUGGLED)
refused(400, 'POST / HTTP/1.1\r\n' .. HOST .. 'Content-Length: 0x3\r\n\r\nabc' .. SMUGGLED)
refused(400, 'POST / HTTP/1.1\r\n' .. HOST .. 'Content-Length:\r\n\r\nabc' .. SMUGGLED)
refused(400, 'POST / HTTP/1.1\r\n' .. HOST .. 'Content-Length: 99999999999999999999\r\n\r\nabc' .. SMUGGLED)
refused(400, 'POST / HTTP/1.1\r\n' .. HOST .. 'Transfer-Encoding: gzip\r\n\r\n' .. SMUGGLED)
refused(400, 'POST / HTTP/1.1\r\n' .. HOST .. 'Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n' .. SMUGGLED)
refused(400, 'POST / HTTP/1.1\r\n' .. HOST .. 'Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n' .. SMUGGLED)
refused(400, 'POST / HTTP/1.1\r\n' .. HOST .. ('Transfer-Encoding: chunked\r\n'):rep(2) .. '\r\n0\r\n\r\n' .. SMUGGLED)
refused(400, 'POST / HTTP/1.1\r\n' .. HOST .. 'Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n' .. SMUGGLED)
refused(400, 'POST / HTTP/1.0\r\n' .. HOST .. 'Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n' .. SMUGGLED)
-- Chunks count, and the connection ends behind them (RFC 9112, section 6.1).
hides('POST / HTTP/1.1\r\n' .. HOST .. 'Content-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n' .. SMUGGLED,
  'a length before chunks')
hides('POST / HTTP/1.1\r\n' .. HOST .. 'Transfer-Encoding: chunked\r\nContent-Length: 60\r\n\r\n0\r\n\r\n' .. SMUGGLED,
  'a length behind chunks')
refused(400, 'POST / HTTP/1.1\r\n' .. HOST .. 'Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n' .. SMUGGLED)
refused(400, 'POST / HTTP/1.1\r\n' .. HOST .. 'Content-Length : 3\r\n\r\nabc' .. SMUGGLED)
refused(400, 'GET / HTTP/1.1\r\n' .. HOST .. 'X-A: b\r\n folded: c\r\n\r\n' .. SMUGGLED)
refused(400, 'GET / HTTP/1.1\r\n' .. HOST .. 'X-A: b\rX-B: c\r\n\r\n' .. SMUGGLED)
refused(400, 'GET / HTTP/1.1\r\n' .. HOST .. 'X-A: b\0c\r\n\r\n' .. SMUGGLED)
refused(400, 'GET / HTTP/1.1\r\n' .. HOST .. ': empty\r\n\r\n' .. SMUGGLED)
refused(400, 'GET / HTTP/1.1\r\n' .. HOST .. 'no colon\r\n\r\n' .. SMUGGLED)
refused(400, 'GET / HTTP/1.1\r\n Host: a\r\n\r\n' .. SMUGGLED)

-- For whom the request is.
refused(400, 'GET / HTTP/1.1\r\n\r\n' .. SMUGGLED)
refused(400, 'GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n' .. SMUGGLED)
refused(400, 'GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n' .. SMUGGLED)
refused(400, 'GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n' .. SMUGGLED)
for _, host in ipairs { '[::1]evil', 'a b', 'a/b', 'u@a', 'a:x', 'a:80:80', '[::1', 'a\\b' } do
  refused(400, 'GET / HTTP/1.1\r\nHost: ' .. host .. '\r\n\r\n' .. SMUGGLED)
end
refused(501, 'CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n')

-- Lines that are none.
for _, line in ipairs { 'GET /', 'GET / HTTP/2.0', 'GET / HTTP/1.2', 'GET / http/1.1', 'G@T / HTTP/1.1',
  'GET  / HTTP/1.1',
  'GET / HTTP/1.1 x', ' GET / HTTP/1.1', '/ HTTP/1.1', 'GET HTTP/1.1', '\1\2\3' } do
  refused(400, line .. '\r\n' .. HOST .. '\r\n' .. SMUGGLED)
end

-- Sizes.
refused(431, 'GET / HTTP/1.1\r\n' .. HOST .. 'X-A: ' .. ('x'):rep(9000) .. '\r\n\r\n')
refused(431, 'GET / HTTP/1.1\r\n' .. HOST .. ('X-A: b\r\n'):rep(30) .. '\r\n')
refused(431, 'GET /' .. ('x'):rep(9000) .. ' HTTP/1.1\r\n' .. HOST .. '\r\n')
refused(431, 'GET / HTTP/1.1\r\n' .. HOST .. 'X-A: ' .. ('x'):rep(200000))
only(413, 'POST / HTTP/1.1\r\n' .. HOST .. 'Content-Length: 1001\r\n\r\n' .. ('x'):rep(1001))
only(413, 'POST / HTTP/1.1\r\n' .. HOST .. 'Content-Length: 9999999\r\n\r\n')
only(413, 'POST / HTTP/1.1\r\n' .. HOST .. 'Transfer-Encoding: chunked\r\n\r\n'
  .. ('12c\r\n' .. ('x'):rep(300) .. '\r\n'):rep(4) .. '0\r\n\r\n')
check.equal(#fine('POST / [' .. ('x'):rep(1000) .. ']',
  'POST / HTTP/1.1\r\n' .. CLOSE .. 'Content-Length: 1000\r\n\r\n' .. ('x'):rep(1000)).body, 1009)

-- Keep-alive: 1.1 stays open, 1.0 only if it asks.
local answers = ask('GET /1 HTTP/1.1\r\n' .. HOST .. '\r\nGET /2 HTTP/1.1\r\n' .. CLOSE .. '\r\nGET /3 HTTP/1.1\r\n'
  .. HOST .. '\r\n')
check.equal(served, { '/1', '/2' })
check.equal({ #answers, answers[1].headers.connection, answers[2].headers.connection }, { 2, nil, 'close' })
answers = ask 'GET /1 HTTP/1.0\r\n\r\nGET /2 HTTP/1.0\r\n\r\n'
check.equal(served, { '/1' })
answers = ask('GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\n')
check.equal(served, { '/1', '/2' })
check.equal(answers[1].headers.connection, 'keep-alive')
-- Many at once are answered in their order.
answers = ask(('GET /x HTTP/1.1\r\n' .. HOST .. '\r\n'):rep(200) .. 'GET /end HTTP/1.1\r\n' .. CLOSE .. '\r\n')
check.equal({ #answers, #served, answers[201].body }, { 201, 201, 'GET /end []' })
-- A body that nobody has read is none of the next request.
answers = ask('POST /unread HTTP/1.1\r\n' .. HOST .. 'Content-Length: ' .. #SMUGGLED .. '\r\n\r\n' .. SMUGGLED
  .. 'GET /next HTTP/1.1\r\n' .. CLOSE .. '\r\n')
for _, path in ipairs(served) do check.that(path ~= '/smuggled') end

-- A client that waits for permission gets it when the body is read, and a refusal otherwise.
local link = raw.connect(addr)
link:send('POST /want HTTP/1.1\r\n' .. CLOSE .. 'Content-Length: 3\r\nExpect: 100-continue\r\n\r\n')
local first = link:take()
check.contains(first, 'HTTP/1.1 100 Continue\r\n\r\n')
link:send 'abc'
local rest = first:sub(#'HTTP/1.1 100 Continue\r\n\r\n' + 1)
for part in function() return link:take() end do rest = rest .. part end
check.equal(select(2, http.parse(rest)), 'POST /want [abc]')
link:close()
check.equal(only(200, 'POST /unread HTTP/1.1\r\n' .. HOST .. 'Content-Length: 3\r\nExpect: 100-continue\r\n\r\n').body,
  'unread')
only(413, 'POST / HTTP/1.1\r\n' .. HOST .. 'Content-Length: 3000\r\nExpect: 100-continue\r\n\r\n')

-- Byte by byte.
link = raw.connect(addr)
for byte in ('POST /slow HTTP/1.1\r\n' .. CLOSE .. 'Content-Length: 3\r\n\r\nabc'):gmatch '.' do
  link:send(byte)
  yue.yield()
end
rest = ''
for part in function() return link:take() end do rest = rest .. part end
check.equal(select(2, http.parse(rest)), 'POST /slow [abc]')
link:close()

-- Clients that leave early.
served = {}
for _, bytes in ipairs { '', 'G', 'GET / HTTP/1.1\r\nHos',
  'POST /left HTTP/1.1\r\n' .. HOST .. 'Content-Length: 9\r\n\r\nab',
  'POST /left HTTP/1.1\r\n' .. HOST .. 'Transfer-Encoding: chunked\r\n\r\n5\r\nab' } do
  link = raw.connect(addr)
  if bytes ~= '' then link:send(bytes) end
  yue.sleep(0.01)
  link:close()
end
check.eventually(function() return s:connections() == 0 end, 'no connection is left')
check.equal(select(2, http.ask(addr, 'GET /well')), 'GET /well []')
s:close()
check.done()
