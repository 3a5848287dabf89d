--! stderr: the client has no certificate, which this server demands
-- The HTTP server over TLS and over Unix sockets. `command/tests/lua.rs` makes the certificates.
local check = require 'check'
local folder = os.getenv('YUE_CERTIFICATES')

local function at(name)
  return folder .. '/' .. name .. '.pem'
end

local routes = {
  ['GET /'] = function(req) return ('%s %s'):format(req.peer:match '^[%w+]+', req.client_name) end,
  ['WS /rpc'] = { peer_name = function() return yue.peer():peer_name() end, add = function(a, b) return a + b end },
}
local s = yue.http.serve('tls://127.0.0.1:0', { cert = at 'server', key = at 'server-key' }, routes)
check.that(s:url():find '^https://127%.0%.0%.1:%d+$', s:url())
check.equal(yue.http.get(s:url() .. '/', { ca = at 'ca' }).body, 'https nil')
local c = yue.open(s:addr():gsub('tls', 'wss') .. '/rpc', { no_cache = true, ca = at 'ca' }, nil)
check.equal(c.add(1, 2), 3)
yue.conn(c):close()
s:reload()
check.equal(yue.http.get(s:url() .. '/', { ca = at 'ca' }).body, 'https nil')
s:close()

-- Clients with certificates.
s = yue.http.serve('https://127.0.0.1:0', { cert = at 'server', key = at 'server-key', client_ca = at 'ca' }, routes)
local out = yue.http.get(s:url() .. '/', { ca = at 'ca', cert = at 'alice', key = at 'alice-key' }).body
check.that(out:find '^https %S' and out ~= 'https nil', out)
check.raises('TransportError', 'certificate', yue.http.get, s:url() .. '/', { ca = at 'ca' })
c = yue.open(s:addr():gsub('tls', 'wss') .. '/rpc',
  { no_cache = true, ca = at 'ca', cert = at 'alice', key = at 'alice-key' }, nil)
check.equal('https ' .. c.peer_name(), out)
yue.conn(c):close()
s:close()
check.raises('ArgumentError', nil, yue.http.serve, 'tls://127.0.0.1:0', routes)
local certificate = { cert = at 'server', key = at 'server-key' }
check.raises('ArgumentError', nil, yue.http.serve, 'tcp://127.0.0.1:0', certificate, {})

-- A Unix socket.
local path = yue.fs.temp() .. '/socket'
s = yue.http.serve('unix://' .. path, routes)
check.equal(s:url(), nil)
check.equal(yue.http.get('http://localhost/', { socket = path }).body, 'http+unix nil')
s:close()
check.equal(yue.fs.exists(path), false)
check.done()
