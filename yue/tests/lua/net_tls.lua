--! stderr: the connection to tls://127.0.0.1:
--! stderr: the client does not trust this server's certificate
--! stderr: the client does not speak TLS
--! stderr: the TLS handshake took too long
-- Streams with TLS: certificates and their faults, both directions, starttls, ends.
local check = require 'check'
local net, fs = yue.net, yue.fs
local certificates, folder = os.getenv 'YUE_CERTIFICATES', yue.fs.temp()

local function at(name)
  return certificates .. '/' .. name .. '.pem'
end

local server_options = { cert = at 'server', key = at 'server-key' }

local function with(options, more)
  local both = {}
  for key, value in pairs(options) do both[key] = value end
  for key, value in pairs(more) do both[key] = value end
  return both
end

--- The two ends of a connection. The listener's side makes the TLS connection when it is first used.
local function pair(timeout)
  local listener = net.listen('tls://127.0.0.1:0', server_options)
  local connecting = yue.spawn(net.connect, listener:addr(), { ca = at 'ca', timeout = timeout })
  local server = listener:accept()
  check.equal(server:peer_name(), nil)
  listener:close()
  return connecting:get(), server
end

local function echo(stream)
  for line in stream:lines() do stream:write(line, '\n') end
end

-- -- tls://

local l = net.listen('tls://127.0.0.1:0', server_options, echo)
check.that(l:addr():find '^tls://127%.0%.0%.1:%d+$')
for _, ca in ipairs { at 'ca', fs.read(at 'ca') } do
  local stream = net.connect(l:addr(), { ca = ca })
  stream:write('hel', 'lo\n')
  check.equal(stream:line(), 'hello')
  check.equal(stream:peer_name(), '127.0.0.1')
  check.equal(stream:peer_addr(), l:addr())
  check.that(stream:addr():find '^tls://')
  stream:close()
end

-- Large texts, both directions at once.
do
  local a, b = pair(30)
  local large = ('0123456789abcdef'):rep(100000)
  local function send(stream)
    stream:write(large, '\n')
    stream:shutdown()
  end
  local function receive(stream)
    check.that(stream:line(2 ^ 22) == large)
    check.equal(stream:read(), nil, 'the end is known')
  end
  yue.all { yue.spawn(send, a), yue.spawn(send, b), yue.spawn(receive, a), yue.spawn(receive, b) }
end

-- A stream that is closed has an end; one that breaks has none.
do
  local a, b = pair()
  a:write 'all'
  a:close()
  check.equal(b:read '*a', 'all')
  -- The bytes of a TLS connection pass through a proxy, which cuts it.
  local proxy, from = net.listen 'tcp://127.0.0.1:0', nil
  yue.spawn(function()
    from = proxy:accept()
    local to = net.connect((l:addr():gsub('tls', 'tcp')))
    yue.spawn(pcall, function() for bytes in to:chunks() do from:write(bytes) end end)
    pcall(function() for bytes in from:chunks() do to:write(bytes) end end)
    to:close()
  end)
  local c = net.connect((proxy:addr():gsub('tcp', 'tls')), { ca = at 'ca' })
  c:write 'x\n'
  check.equal(c:line(), 'x')
  from:close()
  local e = check.raises('ConnectionLostError', 'bytes may be missing', c.read, c)
  check.equal(e.code, 'ECONNRESET')
  proxy:close()
end

-- Time limits lose nothing.
do
  local a, b = pair()
  a:write 'half'
  b:set_timeout(0.05)
  check.raises('TimeoutError', nil, b.line, b)
  a:write ' whole\n'
  b:set_timeout(5)
  check.equal(b:line(), 'half whole')
  local reading = yue.spawn(b.read, b)
  yue.yield()
  check.equal(check.raises('RuntimeError', 'another fiber reads', b.read, b).code, 'EBUSY')
  b:close()
  check.equal(check.raises('RuntimeError', 'closed', reading.get, reading).code, 'EBADF')
end

-- A client that says nothing does not delay others, and is sent away in time.
do
  local listener = net.listen('tls://127.0.0.1:0', with(server_options, { timeout = 0.2 }), echo)
  local silent = net.connect((listener:addr():gsub('tls', 'tcp')))
  local other = net.connect(listener:addr(), { ca = at 'ca' })
  other:write 'x\n'
  check.equal(other:line(), 'x')
  local ok, bytes = pcall(silent.read, silent)
  check.that(not ok or bytes == nil)
  listener:close()
end

-- -- Faults

local e = check.raises('TLSError', 'is not signed by an authority that this side trusts', net.connect, l:addr(),
  { ca = at 'other-ca' })
check.equal(e.code, 'EPROTO')
check.contains(e.msg, 'option ca')
check.contains(e.msg, l:addr())
local misnamed = net.listen('tls://127.0.0.1:0', { cert = at 'misnamed', key = at 'misnamed-key' }, echo)
local named = net.connect(misnamed:addr(), { ca = at 'ca', server_name = 'example.org' })
check.equal(named:peer_name(), 'example.org')
named:close()
check.raises('TLSError', "is for example.org, not for '127.0.0.1'", net.connect, misnamed:addr(), { ca = at 'ca' })
misnamed:close()
local careless = net.connect(l:addr(), { insecure = true })
careless:write 'x\n'
check.equal(careless:line(), 'x')
check.equal(careless:peer_name(), nil)
careless:close()
check.raises('TimeoutError', 'no answer within 0.05 s', function()
  local silent = net.listen('tcp://127.0.0.1:0')
  net.connect((silent:addr():gsub('tcp', 'tls')), { ca = at 'ca', timeout = 0.05 })
end)
local plain = net.listen('tcp://127.0.0.1:0', function(stream) stream:write 'HTTP/1.1 400 Bad Request\r\n\r\n' end)
check.raises('TLSError', 'does not speak TLS', net.connect, (plain:addr():gsub('tcp', 'tls')), { ca = at 'ca' })
plain:close()
-- The rate of log lines is limited: the one below must not be left out.
yue.sleep(0.3)
do
  local stream = net.connect((l:addr():gsub('tls', 'tcp')))
  stream:write 'GET / HTTP/1.1\r\n\r\n'
  pcall(stream.read, stream, '*a')
end

-- Certificates of clients.
do
  local names = {}
  local members = net.listen('tls://127.0.0.1:0', with(server_options, { client_ca = at 'ca' }), function(stream)
    names[#names + 1] = stream:peer_name()
    echo(stream)
  end)
  local alice = net.connect(members:addr(), { ca = at 'ca', cert = at 'alice', key = at 'alice-key' })
  alice:write 'x\n'
  check.equal(alice:line(), 'x')
  check.equal(names, { 'alice' })
  alice:close()
  e = check.raises('TLSError', 'the server demands a certificate of this client', function()
    net.connect(members:addr(), { ca = at 'ca' }):read()
  end)
  members:close()
end

-- -- starttls

for _, addr in ipairs { 'tcp://127.0.0.1:0', 'unix://' .. folder .. '/socket' } do
  local listener = net.listen(addr)
  local client = net.connect(listener:addr())
  local server = listener:accept()
  listener:close()
  client:write 'STARTTLS\r\n'
  check.equal(server:line(), 'STARTTLS')
  server:write '220 go ahead\r\n'
  check.equal(client:line(), '220 go ahead')
  local upgrade = yue.spawn(server.starttls, server, server_options)
  client:starttls { ca = at 'ca', server_name = '127.0.0.1' }
  upgrade:get()
  client:write 'secret\n'
  check.equal(server:line(), 'secret')
  check.equal(client:peer_name(), '127.0.0.1')
  check.equal(check.raises('RuntimeError', 'already', client.starttls, client,
    { ca = at 'ca', server_name = 'x' }).code, 'EALREADY')
  client:close()
  check.equal(server:read(), nil)
end

local function plain_pair()
  local listener = net.listen 'tcp://127.0.0.1:0'
  local client = net.connect(listener:addr())
  return client, listener:accept()
end

-- Bytes that were received before could be an attacker's.
do
  local client, server = plain_pair()
  server:write '220 go ahead\r\n250 injected\r\n'
  check.equal(client:line(), '220 go ahead')
  e = check.raises('RuntimeError', 'an attacker may have inserted them', client.starttls, client, { ca = at 'ca' })
  check.equal(e.code, 'EPROTO')
  check.equal(client:line(), '250 injected')
  -- Not while another fiber reads.
  local reading = yue.spawn(client.read, client)
  yue.yield()
  check.equal(check.raises('RuntimeError', 'another fiber uses', client.starttls, client,
    { ca = at 'ca' }).code, 'EBUSY')
  server:write 'x'
  check.equal(reading:get(), 'x')
  -- A handshake that fails closes the stream.
  server:write 'no handshake\r\n'
  check.raises('TLSError', 'does not speak TLS', client.starttls, client, { ca = at 'ca' })
  check.equal(check.raises('RuntimeError', 'closed', client.read, client).code, 'EBADF')
end
do
  local client, server = plain_pair()
  check.raises('TimeoutError', nil, client.starttls, client, { ca = at 'ca', timeout = 0.05 })
  check.raises('ArgumentError', 'no option ca', server.starttls, server, { ca = at 'ca' })
  check.raises('ArgumentError', 'needs a certificate', server.starttls, server, {})
  local listener = net.listen('unix://' .. folder .. '/named')
  local unnamed = net.connect(listener:addr())
  check.raises('ArgumentError', 'server_name is missing', unnamed.starttls, unnamed, { ca = at 'ca' })
end

l:close()
check.done()
