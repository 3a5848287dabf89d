--! stderr: is not secure: its server is not verified (insecure = true)
--! stderr: the client speaks TLS, and this address does not
-- yue.http over TLS. `command/tests/lua.rs` makes the certificates.
local check = require 'check'
local scripted = require 'scripted'
local folder = os.getenv('YUE_CERTIFICATES')
local http = yue.http
local function at(name) return folder .. '/' .. name .. '.pem' end

local symbols = {
  echo = function(...) return ... end,
  name = function() return yue.peer():peer_name() end,
}
local function listen(options)
  options.cert, options.key = at 'server', at 'server-key'
  options.http = { rpc = function() return true end }
  local l = yue.listen('tls://127.0.0.1:0', options, symbols)
  return l, (l:addr():gsub('^tls', 'https'))
end
local l, url = listen {}

-- Certificates as files and as text; large bodies.
local big = ('x'):rep(300000)
for _, ca in ipairs { at 'ca', yue.fs.read(at 'ca') } do
  local r = http.post(url .. '/rpc/echo', { big }, { ca = ca, timeout = 60 })
  check.equal(r.status, 200)
  check.that(r:json().result == big)
end
local count = 0
local stream = http.post(url .. '/rpc/echo', { big }, { ca = at 'ca', stream = true })
for piece in stream:chunks() do count = count + #piece end
check.that(count > #big)

-- Faults of certificates.
check.raises('TLSError', 'is not signed by an authority', http.get, url, { ca = at 'other-ca' })
check.raises('TLSError', nil, http.get, url)
check.raises('TLSError', 'name', http.get, url, { ca = at 'ca', server_name = 'example.com' })
check.raises('ArgumentError', 'ca', http.get, url, { ca = '/nowhere/ca.pem' })

-- A connection that was not verified is not used by a request that demands it.
local client = http.client { base = url }
check.equal(client:get('/', { insecure = true }).status, 404)
check.equal(client:idle(), 1)
check.raises('TLSError', nil, client.get, client, '/', { ca = at 'other-ca' })
check.equal(client:get('/', { ca = at 'ca' }).status, 404)
check.equal(client:idle(), 2)
check.equal(client:get('/', { ca = at 'ca' }).status, 404)
check.equal(client:idle(), 2)
client:close()

-- A client's certificate.
local strict, strict_url = listen { client_ca = at 'ca' }
check.that(not pcall(http.post, strict_url .. '/rpc/name', {}, { ca = at 'ca', timeout = 10 }))
strict:close()

-- https:// to a server without TLS, which refuses it, or waits for more; and the other way round.
local plain = yue.listen('tcp://127.0.0.1:0', { http = {} }, {})
check.raises('TransportError', nil, http.get, (plain:addr():gsub('tcp', 'https')), { ca = at 'ca' })
plain:close()
local silent = scripted.serve(function() end)
check.raises('TimeoutError', 'was not answered within 0.1 s', http.get, (silent.url:gsub('http', 'https')),
  { ca = at 'ca', timeout = 0.1 })
silent.stop()
check.raises('TransportError', nil, http.get, (url:gsub('https', 'http')))

-- A redirect to https:// is followed, with the options for it; one back to http:// is not.
local secure = scripted.serve(function() return scripted.answer('', '302 Found', 'Location: ' .. url .. '/\r\n') end)
check.equal(http.get(secure.url, { ca = at 'ca' }).url, url .. '/')
secure.stop()
l:close()
check.done()
