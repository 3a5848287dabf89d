-- yue.http.files: files of a folder and of no other, conditions, ranges, types.
local check = require 'check'
local http = require 'http'
local raw = require 'raw'

local root = yue.fs.temp()
local folder = root .. '/public'
for _, path in ipairs { '', '/sub', '/empty', '/.git' } do yue.fs.mkdir(folder .. path) end
local big = ('0123456789abcdef'):rep(65536 * 4)
for path, text in pairs {
  ['/public/index.html'] = '<h1>home</h1>', ['/public/a.txt'] = '0123456789', ['/public/sub/index.html'] = 'sub',
  ['/public/sub/b.JS'] = 'js', ['/public/noext'] = 'n', ['/public/nothing'] = '', ['/public/.env'] = 'secret',
  ['/public/.git/config'] = 'secret', ['/public/big.bin'] = big, ['/public/a b\195\188.md'] = 'blank',
  ['/public/c..d.txt'] = 'dots', ['/secret.txt'] = 'secret',
} do
  yue.fs.write(root .. path, text)
end
yue.process.run { 'ln', '-s', root .. '/secret.txt', folder .. '/link.txt' }
yue.process.run { 'ln', '-s', root, folder .. '/up' }
yue.process.run { 'ln', '-s', 'a.txt', folder .. '/inner.txt' }
yue.process.run { 'mkfifo', folder .. '/pipe' }

local s = yue.http.serve('tcp://127.0.0.1:0', {
  ['GET /static/*'] = yue.http.files(folder, { max_age = 60, types = { md = 'text/x-own' } }),
  ['GET /dots/*path'] = yue.http.files(folder, { dotfiles = true, index = false }),
  ['* /any/*'] = yue.http.files(folder),
  ['GET /one'] = yue.http.files(folder .. '/sub'),
})
local addr = s:addr()
local function get(path, headers) return http.ask(addr, 'GET /static/' .. path, headers) end

-- Whole files.
local status, body, headers = get 'a.txt'
check.equal({ status, body }, { 200, '0123456789' })
check.equal(headers['content-type'], 'text/plain; charset=utf-8')
check.equal(headers['content-length'], '10')
check.equal(headers['accept-ranges'], 'bytes')
check.equal(headers['cache-control'], 'max-age=60')
check.equal(headers['x-content-type-options'], 'nosniff')
check.that(headers['last-modified']:find '^%a%a%a, %d%d %a%a%a %d%d%d%d %d%d:%d%d:%d%d GMT$', headers['last-modified'])
local tag, date = headers.etag, headers['last-modified']
check.that(tag:find '^"[%x-]+"$', tag)
check.equal(select(2, get ''), '<h1>home</h1>')
check.equal(select(3, get '')['content-type'], 'text/html; charset=utf-8')
check.equal(select(2, get 'sub/'), 'sub')
check.equal(select(3, get 'sub/b.JS')['content-type'], 'text/javascript; charset=utf-8')
check.equal(select(3, get 'noext')['content-type'], 'application/octet-stream')
status, body, headers = get 'nothing'
check.equal({ status, body, headers['content-length'] }, { 200, '', '0' })
status, body, headers = get 'a%20b%c3%bc.md'
check.equal({ status, body, headers['content-type'] }, { 200, 'blank', 'text/x-own' })
check.equal(select(2, get 'c..d.txt'), 'dots')
status, body = get 'big.bin'
check.equal({ status, #body }, { 200, #big })
check.that(body == big, 'the bytes are the same')
check.equal(select(2, http.ask(addr, 'GET /one')), 'sub')
status, _, headers = get 'sub?x=1'
check.equal({ status, headers.location }, { 301, '/static/sub/?x=1' })
status, body, headers = http.ask(addr, 'HEAD /static/a.txt')
check.equal({ status, body, headers['content-length'], headers.etag }, { 200, '', '10', tag })
check.equal(http.ask(addr, 'HEAD /static/big.bin'), 200)

-- What is not served.
for _, path in ipairs { 'no.txt', 'empty/', 'empty', 'a.txt/', 'a.txt/x', '.env', '.git/config', '../secret.txt', '..',
  '.', './a.txt', 'sub/../a.txt', '%2e%2e/secret.txt', '..%2fsecret.txt', 'sub%2f..%2f..%2fsecret.txt', '%00',
  'a.txt%00',
  'link.txt', 'up/secret.txt', 'up/public/a.txt', 'inner.txt', 'pipe', '/etc/passwd', '%2fetc%2fpasswd', 'sub//b.JS',
  ('x'):rep(300), '..\\secret.txt', '%252e%252e/secret.txt' } do
  status, body = get(path)
  check.equal(status, 404, path)
  check.that(not body:find 'secret', path)
end
check.raises('ArgumentError', 'there is no folder', yue.http.files, root .. '/nowhere')
check.raises('ArgumentError', 'zero byte', yue.http.files, folder .. '\0')
check.equal(http.ask(addr, 'GET /dots/'), 404)
check.equal(select(2, http.ask(addr, 'GET /dots/.env')), 'secret')
check.equal(http.ask(addr, 'GET /dots/../secret.txt'), 404)
check.equal(http.ask(addr, 'GET /dots/.git/../../secret.txt'), 404)
check.equal(http.ask(addr, 'POST /static/a.txt', nil, ''), 405)
status, _, headers = http.ask(addr, 'POST /any/a.txt', nil, '')
check.equal({ status, headers.allow }, { 405, 'GET, HEAD' })

-- Conditions.
local function under(wanted, conditions)
  local got, text, found = get('a.txt', conditions)
  check.equal(got, wanted, check.show(conditions))
  if wanted == 304 or wanted == 412 then check.equal({ text, found.etag }, { '', tag }) end
end
local PAST, FUTURE = 'Thu, 01 Jan 1970 00:00:01 GMT', 'Fri, 31 Dec 2199 23:59:59 GMT'
under(304, { ['If-None-Match'] = tag })
under(304, { ['If-None-Match'] = '"x", W/' .. tag })
under(304, { ['If-None-Match'] = '*' })
under(200, { ['If-None-Match'] = '"x"' })
under(304, { ['If-Modified-Since'] = date })
under(304, { ['If-Modified-Since'] = FUTURE })
under(200, { ['If-Modified-Since'] = PAST })
under(200, { ['If-Modified-Since'] = 'yesterday' })
-- The tag decides if both are there.
under(200, { ['If-None-Match'] = '"x"', ['If-Modified-Since'] = FUTURE })
under(200, { ['If-Match'] = tag })
under(412, { ['If-Match'] = '"x"' })
under(412, { ['If-Match'] = 'W/' .. tag })
under(200, { ['If-Unmodified-Since'] = FUTURE })
under(412, { ['If-Unmodified-Since'] = PAST })

-- Ranges.
local function range(value, wanted, text, span, more)
  local conditions = { Range = value }
  for name, other in pairs(more or {}) do conditions[name] = other end
  local got, part, found = get('a.txt', conditions)
  check.equal({ got, part, found['content-range'] }, { wanted, text, span }, value)
end
range('bytes=0-3', 206, '0123', 'bytes 0-3/10')
range('bytes=3-', 206, '3456789', 'bytes 3-9/10')
range('bytes=-2', 206, '89', 'bytes 8-9/10')
range('bytes=-20', 206, '0123456789', 'bytes 0-9/10')
range('bytes=5-500', 206, '56789', 'bytes 5-9/10')
range('Bytes = 9-9', 206, '9', 'bytes 9-9/10')
range('bytes=10-', 416, '', 'bytes */10')
range('bytes=99-100', 416, '', 'bytes */10')
range('bytes=-0', 416, '', 'bytes */10')
for _, value in ipairs { 'bytes=5-3', 'bytes=-', 'bytes=a-b', 'lines=1-2', 'bytes=0-1,3-4', 'bytes' } do
  range(value, 200, '0123456789', nil)
end
range('bytes=0-1', 206, '01', 'bytes 0-1/10', { ['If-Range'] = tag })
range('bytes=0-1', 200, '0123456789', nil, { ['If-Range'] = '"x"' })
range('bytes=0-1', 206, '01', 'bytes 0-1/10', { ['If-Range'] = date })
range('bytes=0-1', 200, '0123456789', nil, { ['If-Range'] = PAST })
range('bytes=0-1', 304, '', nil, { ['If-None-Match'] = tag })
status, body, headers = get('big.bin', { Range = 'bytes=70000-70015' })
check.equal({ status, body, headers['content-length'] }, { 206, big:sub(70001, 70016), '16' })
status, _, headers = get('nothing', { Range = 'bytes=0-0' })
check.equal({ status, headers['content-range'] }, { 416, 'bytes */0' })
status, _, headers = http.ask(addr, 'HEAD /static/a.txt', { Range = 'bytes=0-1' })
check.equal({ status, headers['content-length'] }, { 200, '10' })

-- A change of the file changes its tag.
yue.fs.write(folder .. '/a.txt', 'other bytes')
under(200, { ['If-None-Match'] = tag })

-- A client that leaves in the middle of a large file.
local link = raw.connect(addr)
link:send 'GET /static/big.bin HTTP/1.1\r\nHost: a\r\n\r\n'
check.that(link:take())
link:close()
check.eventually(function() return s:connections() == 0 end, 'no connection is left')
s:close()

-- Options that do not fit.
check.raises('ArgumentError', 'the path of a folder', yue.http.files)
check.raises('ArgumentError', 'the path of a folder', yue.http.files, '')
check.raises('ArgumentError', 'has no option indx', yue.http.files, 'x', { indx = 1 })
check.raises('ArgumentError', 'the option index', yue.http.files, 'x', { index = 'a/b' })
check.raises('ArgumentError', 'the option max_age', yue.http.files, 'x', { max_age = -1 })
check.raises('ArgumentError', 'the option dotfiles', yue.http.files, 'x', { dotfiles = 1 })
check.raises('ArgumentError', 'the option types', yue.http.files, 'x', { types = 1 })
check.raises('ArgumentError', 'the option types', yue.http.files, 'x', { types = { md = 1 } })
check.done()
