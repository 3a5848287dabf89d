--! stderr: the handshake with wss://127.0.0.1:
--! stderr: is not secure: its server is not verified (insecure = true)
--! stderr: has read its certificate again
-- wss://: WebSocket over TLS, with all that both have: origins, certificates of both sides, renewal.
local check = require 'check'
local folder = os.getenv 'YUE_CERTIFICATES'

local function at(name)
  return folder .. '/' .. name .. '.pem'
end

local symbols = {
  add = function(a, b) return a + b end,
  ask = function(n) return yue.peer().procs.double(n) + 1 end,
  name = function() return yue.peer():peer_name() end,
  echo = function(...) return ... end,
}
local server = { cert = at 'server', key = at 'server-key' }
local l = yue.listen('wss://127.0.0.1:0/game', server, symbols)
check.that(l:addr():find '^wss://127%.0%.0%.1:%d+/game$', l:addr())
local c = yue.open(l:addr(), { ca = at 'ca', no_cache = true }, { double = function(n) return 2 * n end })
check.equal(c.add(20, 22), 42)
check.equal(c.ask(4), 9)
local big = ('x'):rep(1000000)
check.that(c.echo(big) == big)
check.equal(yue.conn(c):peer_name(), '127.0.0.1')
check.contains(l:connections()[1]:addr(), 'wss://127.0.0.1:')

-- Certificates, as over tls://.
local function call(options) return yue.open(l:addr(), options, nil).add(1, 2) end
check.raises('TLSError', 'is not signed by an authority', call, { ca = at 'other-ca' })
check.raises('TLSError', 'not for', call, { ca = at 'ca', server_name = 'example.org' })
check.equal(call { insecure = true }, 3)
check.raises('ArgumentError', 'needs a certificate', yue.listen, 'wss://127.0.0.1:0', {})
local strict = yue.listen('wss://127.0.0.1:0', { cert = server.cert, key = server.key, client_ca = at 'ca' }, symbols)
local alice = { ca = at 'ca', cert = at 'alice', key = at 'alice-key' }
check.equal(yue.open(strict:addr(), alice, nil).name(), 'alice')
local nameless = yue.open(strict:addr(), { ca = at 'ca' }, nil)
local e = check.raises('TLSError', 'the server demands a certificate', nameless.name)
check.equal(e.retryable, false)
strict:close()

-- The path, and the protocol.
local elsewhere = l:addr():gsub('/game', '/')
check.raises('TransportError', '404', function() yue.open(elsewhere, { ca = at 'ca' }, nil).add(1, 2) end)
local plain = l:addr():gsub('^wss', 'ws')
check.raises('TransportError', nil, function() yue.open(plain).add(1, 2) end)
check.eventually(function() return l:stats().handshakes_failed >= 2 and l:stats().handshakes == 0 end)

-- Renewal.
l:reload()
check.equal(call { ca = at 'ca' }, 3)

-- One port for msgpack-rpc and WebSocket over TLS, and HTTP.
local both = yue.listen('tls://127.0.0.1:0', {
  cert = server.cert, key = server.key, ws = true, http = { rpc = function() return true end },
}, symbols)
local trusting = { ca = at 'ca' }
check.equal(yue.open(both:addr(), trusting, nil).add(1, 2), 3)
check.equal(yue.open(both:addr():gsub('tls', 'wss'), trusting, nil).add(3, 4), 7)
local raw = require 'raw'
local link = raw.connect(both:addr():gsub('tls', 'tcp'))
link:send 'nonsense'
check.eventually(function() return link:listen() end, 'plain bytes are no TLS')
link:close()
both:close()
l:close()
check.done()
