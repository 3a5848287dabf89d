--! stderr: the handler of fail failed, called by tls://127.0.0.1:
--! stderr: does not trust this server's certificate
--! stderr: the client does not speak TLS
--! stderr: the beginning of a TLS handshake: the peer must use tcp://
--! stderr: the client has no certificate, which this server demands
--! stderr: is not secure: its server is not verified (insecure = true)
--! stderr: keeps its old certificate:
-- tls://: certificates and their faults, client certificates, renewal. `command/tests/lua.rs` makes the certificates.
local check = require 'check'
local folder = os.getenv('YUE_CERTIFICATES')

local function at(name)
  return folder .. '/' .. name .. '.pem'
end

local function text(name)
  local file = assert(io.open(at(name)))
  local all = file:read('*a')
  file:close()
  return all
end

local symbols = {
  ping = function() return 'pong' end,
  name = function() return yue.peer():peer_name() end,
  fail = function() error('it failed') end,
}

local function listen(name, options)
  options = options or {}
  options.cert, options.key = at(name), at(name .. '-key')
  return yue.listen('tls://127.0.0.1:0', options, symbols)
end

-- A call, with certificates as files and as text.
local l = listen('server')
check.that(l:addr():find('^tls://127%.0%.0%.1:%d+$'), l:addr())
for _, ca in ipairs { at('ca'), text('ca') } do
  local conn = yue.socket(l:addr(), { ca = ca }, nil)
  check.equal(conn.procs.ping(), 'pong')
  check.equal(conn:peer_name(), '127.0.0.1')
  check.equal(conn.procs.name(), nil)
  check.contains(tostring(conn), 'tls://')
  -- Tracebacks stay at home, as over TCP.
  local e = check.raises('RuntimeError', 'it failed', conn.procs.fail)
  check.equal(e.bt, nil)
  conn:close()
end
local by_text = yue.listen('tls://localhost:0', { cert = text('server'), key = text('server-key') }, symbols)
check.equal(yue.open(by_text:addr(), { ca = at('ca') }, nil).ping(), 'pong')
by_text:close()

-- Large messages, both ways.
symbols.echo = function(...) return ... end
local big = ('x'):rep(1000000)
check.that(yue.open(l:addr(), { ca = at('ca') }, nil).echo(big) == big)

-- An authority that this side does not trust: the call fails at once, and is not to be repeated.
local stranger = yue.open(l:addr(), { ca = at('other-ca'), retry = true }, nil)
local e = check.raises('TLSError', 'is not signed by an authority that this side trusts', stranger.ping)
check.contains(e.msg, 'option ca')
check.that(not e.retryable)
check.that(e:is_a('TransportError'))
check.eventually(function() return l:stats().handshakes_failed >= 1 end, 'it is counted')
check.equal(l:stats().handshakes, 0)

-- Certificates that expired, or are for another name.
local expired = listen('expired')
e = check.raises('TLSError', "the server's certificate expired", yue.open(expired:addr(), { ca = at('ca') }, nil).ping)
check.contains(e.msg, 'renew it')
expired:close()
local misnamed = listen('misnamed')
local unnamed = yue.open(misnamed:addr(), { ca = at('ca') }, nil)
e = check.raises('TLSError', "is for example.org, not for '127.0.0.1'", unnamed.ping)
check.contains(e.msg, 'server_name')
local named = yue.open(misnamed:addr(), { ca = at('ca'), server_name = 'example.org' }, nil)
check.equal(named.ping(), 'pong')
misnamed:close()

-- A client that does not care.
local careless = yue.socket(l:addr(), { insecure = true }, nil)
check.equal(careless.procs.ping(), 'pong')
check.equal(careless:peer_name(), nil)

-- TLS and plain TCP do not match. (The rate of log lines is limited: the line below must not be left out.)
yue.sleep(1.1)
local plain = l:addr():gsub('tls://', 'tcp://')
e = check.raises('ConnectionLostError', 'the peer speaks TLS, so use tls://', yue.open(plain).ping)
local tcp = yue.listen('tcp://127.0.0.1:0', symbols)
local secure = tcp:addr():gsub('tcp://', 'tls://')
check.raises('TransportError', 'use tcp://', yue.open(secure, { ca = at('ca') }, nil).ping)
tcp:close()

-- Client certificates.
local members = yue.listen('tls://127.0.0.1:0', { cert = at('server'), key = at('server-key'), client_ca = at('ca') }, {
  symbols,
  { __accept = function(conn) return conn:peer_name() == 'alice' end },
})
local function as(name)
  return yue.open(members:addr(), { ca = at('ca'), cert = name and at(name), key = name and at(name .. '-key') }, nil)
end
check.equal(as('alice').name(), 'alice')
check.raises('NotGrantedError', nil, as('bob').name)
e = check.raises('TLSError', 'the server demands a certificate of this client', as(nil).name)
check.that(not e.retryable)
check.raises('TLSError', 'does not trust this client', as('mallory').name)
members:close()

-- Options that do not fit.
local function refused(part, fn, ...)
  check.raises('ArgumentError', part, fn, ...)
end
refused('needs a certificate', yue.listen, 'tls://127.0.0.1:0', {})
refused('needs the option key', yue.listen, 'tls://127.0.0.1:0', { cert = at('server') }, {})
refused('needs the option cert', yue.open, l:addr(), { key = at('server-key') }, nil)
refused('the option ca is for clients', yue.listen, 'tls://127.0.0.1:0',
  { cert = at('server'), key = at('server-key'), ca = at('ca') }, {})
refused('client_ca is for a listener', yue.open, l:addr(), { client_ca = at('ca') }, nil)
refused('the option cert is for tls://', yue.listen, 'tcp://127.0.0.1:0', { cert = at('server') }, {})
refused('the option ca is for tls://', yue.open, 'unix:///tmp/nobody', { ca = at('ca') }, nil)
refused('/nowhere', yue.open, l:addr(), { ca = '/nowhere/ca.pem' }, nil)
refused('found no certificate', yue.open, l:addr(), { ca = at('server-key') }, nil)
refused('cannot read the private key', yue.listen, 'tls://127.0.0.1:0', { cert = at('server'), key = at('ca') }, {})
refused('cannot be used together', yue.listen, 'tls://127.0.0.1:0', { cert = at('server'), key = at('alice-key') }, {})
refused('neither a host name nor an IP address', yue.open, l:addr(), { server_name = 'a b' }, nil)
refused('insecure is a boolean', yue.open, l:addr(), { insecure = 'yes' }, nil)
refused('cert is a string', yue.open, l:addr(), { cert = 5 }, nil)

-- Renewal: a connection that exists stays; the next one gets the new certificate.
local function copy(from, to)
  local file = assert(io.open(folder .. '/' .. to, 'w'))
  file:write(text(from))
  file:close()
end
copy('server', 'live')
copy('server-key', 'live-key')
local live = yue.listen('tls://127.0.0.1:0', { cert = folder .. '/live', key = folder .. '/live-key' }, symbols)
local function open(name)
  return yue.open(live:addr(), { ca = at('ca'), server_name = name, no_cache = true }, nil)
end
local old = open('127.0.0.1')
check.equal(old.ping(), 'pong')
copy('misnamed', 'live')
refused('cannot be used together', live.reload, live)
check.equal(open('127.0.0.1').ping(), 'pong', 'the old certificate stays')
copy('misnamed-key', 'live-key')
live:reload()
check.equal(open('example.org').ping(), 'pong')
check.raises('TLSError', nil, open('127.0.0.1').ping)
check.equal(old.ping(), 'pong')
-- Without a call, a moment later.
copy('server', 'live')
copy('server-key', 'live-key')
check.eventually(function() return (pcall(open('127.0.0.1').ping)) end, 'it notices the new files by itself')
live:close()
l:close()
l:reload()

check.done()
