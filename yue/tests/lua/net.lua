-- Streams: reads, lines, writes, both directions at once, time limits, closes, errors.
local check = require 'check'
local net, fs = yue.net, yue.fs
local folder = fs.temp()

--- The two ends of a connection.
local function pair(addr, options)
  local listener = net.listen(addr or 'tcp://127.0.0.1:0', options)
  local client = net.connect(listener:addr(), options)
  local server = listener:accept()
  listener:close()
  return client, server
end

-- -- Reading and writing

for _, addr in ipairs { 'tcp://127.0.0.1:0', 'tcp://[::1]:0', 'tcp://localhost:0', 'unix://' .. folder .. '/socket' } do
  local a, b = pair(addr)
  a:write 'one\ntwo\r\n\r\n\nthr'
  check.equal(b:line(), 'one')
  check.equal(b:line(), 'two')
  check.equal(b:line(), '')
  check.equal(b:line(), '')
  local waiting = yue.spawn(b.line, b)
  yue.yield()
  a:write('ee', '\r', '\n', 4, '', 'rest')
  check.equal(waiting:get(), 'three')
  check.equal(b:read(2), '4r')
  check.equal(b:read(0), '')
  check.equal(b:read(), 'est')
  b:write '12345678'
  check.equal(a:read(3), '123')
  check.equal(a:read(3), '456')
  check.equal(a:read(), '78')
  -- The end of one direction is not that of the other.
  a:write 'the end'
  a:shutdown()
  check.equal(b:read(100), 'the end')
  check.equal({ b:read(), b:line(), b:read(1) }, {})
  check.equal(b:read '*a', '')
  check.equal(b:read(0), '')
  b:write 'x\nlast'
  b:close()
  local seen = {}
  for line in a:lines() do seen[#seen + 1] = line end
  check.equal(seen, { 'x', 'last' })
  local e = check.raises('ConnectionLostError', 'cannot write to the stream to', function()
    for _ = 1, 1000 do a:write 'x' yue.sleep(0.001) end
  end)
  check.equal(e.code, 'EPIPE')
  a:close()
end

-- Large texts, in both directions at once.
do
  local a, b = pair()
  local large = ('0123456789abcdef'):rep(100000)
  local function send(stream)
    stream:write(large, '\n', large, '\n')
    stream:shutdown()
  end
  local fibers = { yue.spawn(send, a), yue.spawn(send, b) }
  local function receive(stream)
    check.that(stream:read(#large) == large)
    check.equal(stream:read(1), '\n')
    check.that(stream:read '*a' == large .. '\n')
  end
  fibers[3], fibers[4] = yue.spawn(receive, a), yue.spawn(receive, b)
  yue.all(fibers)
  a:close()
  b:close()
end

-- Small records and chunks.
do
  local a, b = pair()
  local parts = {}
  for i = 1, 20000 do parts[i] = ('%08d'):format(i) end
  local sending = yue.spawn(function()
    a:write(table.concat(parts))
    a:close()
  end)
  for i = 1, 1000 do check.equal(b:read(8), parts[i]) end
  local size = 0
  for bytes in b:chunks() do size = size + #bytes end
  check.equal(size, 8 * 19000)
  sending:get()
end

-- Texts of several fibers do not mix.
do
  local a, b = pair()
  local texts = {}
  for i = 1, 20 do texts[i] = tostring(i):rep(50000) .. '\n' end
  local fibers = {}
  for i = 1, 20 do fibers[i] = yue.spawn(function() a:write(texts[i]) end) end
  local seen = {}
  for i = 1, 20 do seen[b:line() .. '\n'] = true end
  yue.all(fibers)
  for i = 1, 20 do check.that(seen[texts[i]], 'text ' .. i) end
end

-- Two readers: the second is refused, and the first continues.
do
  local a, b = pair()
  local first = yue.spawn(b.line, b)
  yue.yield()
  local e = check.raises('RuntimeError', 'another fiber reads from the stream from tcp://127.0.0.1:', b.read, b)
  check.equal(e.code, 'EBUSY')
  check.equal(check.raises('RuntimeError', 'another fiber reads', b.line, b).code, 'EBUSY')
  a:write 'whole\n'
  check.equal(first:get(), 'whole')
end

-- -- Limits of lines

do
  local a, b = pair()
  a:write(('x'):rep(100), '\n', ('y'):rep(20), '\nz\n')
  local e = check.raises('RuntimeError', 'has a line of more than 10 bytes', b.line, b, 10)
  check.equal(e.code, 'EFBIG')
  check.equal(b:line(100), ('x'):rep(100))
  check.equal(b:read(15), ('y'):rep(15))
  check.equal(b:line(5), 'yyyyy')
  check.equal(b:line(1), 'z')
  local sending = yue.spawn(a.write, a, ('l'):rep(2 ^ 20 + 1), '\n')
  check.raises('RuntimeError', 'more than 1048576 bytes', b.line, b)
  check.equal(#b:line(2 ^ 21), 2 ^ 20 + 1)
  sending:get()
  sending = yue.spawn(function()
    a:write(('m'):rep(2 ^ 24 + 1))
    a:close()
  end)
  check.equal(check.raises('RuntimeError', 'read them in parts', b.read, b, '*a').code, 'EFBIG')
  check.equal(#b:read(2 ^ 24), 2 ^ 24)
  check.equal(b:read '*a', 'm')
  sending:get()
end

-- Byte by byte, more pieces than are kept apart.
do
  local a, b = pair()
  local text = ('0123456789'):rep(900)
  local function send()
    for i = 1, #text do
      a:write(text:sub(i, i))
      -- The reader takes it in the meantime.
      yue.sleep(1e-6)
    end
  end
  local sending = yue.spawn(function()
    send()
    a:write '\n'
    send()
    a:close()
  end)
  check.that(b:line() == text)
  check.that(b:read(#text - 1) == text:sub(1, -2))
  check.equal(b:read '*a', '9')
  sending:get()
end

-- -- Limits of time

do
  local a, b = pair()
  -- Nothing that was received is lost.
  a:write 'half'
  check.raises('TimeoutError', nil, yue.timeout, 0.05, b.line, b)
  b:set_timeout(0.05)
  check.raises('TimeoutError', nil, b.line, b)
  a:write ' whole\n'
  check.equal(b:line(), 'half whole')
  a:write '123'
  check.raises('TimeoutError', nil, b.read, b, 6)
  check.raises('TimeoutError', nil, b.read, b, '*a')
  a:write '456'
  check.equal(b:read(6), '123456')
  -- The limit is that of a whole operation: a peer that sends a byte now and then does not extend it.
  local slow = yue.spawn(function()
    for _ = 1, 1000 do a:write 'x' yue.sleep(0.01) end
  end)
  check.raises('TimeoutError', nil, b.line, b)
  slow:cancel()
  -- What is there already needs no time.
  b:set_timeout(1e-9)
  check.equal(b:read(1), 'x')
  b:set_timeout(0.05)
  -- A peer that does not read.
  check.raises('TimeoutError', nil, function()
    for _ = 1, 10000 do b:write(('x'):rep(100000)) end
  end)
  b:set_timeout(nil)
  check.equal(#a:read(10), 10)
  -- A cancel.
  local reading = yue.spawn(b.read, b, '*a')
  yue.yield()
  reading:cancel()
  check.raises('CancelledError', nil, reading.get, reading)
  a:write 'y\n'
  check.that(b:line():find '^x*y$')
end

-- -- Closing

for _, addr in ipairs { 'tcp://127.0.0.1:0', 'unix://' .. folder .. '/closed' } do
  -- A fiber that reads, and one that writes, get an error at once.
  local a, b = pair(addr)
  local reading = yue.spawn(a.line, a)
  local writing = yue.spawn(function()
    while true do a:write(('x'):rep(100000)) end
  end)
  local queued = yue.spawn(a.write, a, 'queued')
  for _ = 1, 10 do yue.sleep(0.001) end
  a:close()
  a:close()
  for _, fiber in ipairs { reading, writing, queued } do
    check.equal(check.raises('RuntimeError', 'closed', fiber.get, fiber).code, 'EBADF')
  end
  for _, name in ipairs { 'read', 'line', 'write', 'shutdown', 'starttls', 'peer_name' } do
    local e = check.raises('RuntimeError', 'is closed', a[name], a, name == 'write' and 'x' or nil)
    check.equal(e.code, 'EBADF')
  end
  check.contains(tostring(a), '(closed)')
  -- The peer notices it.
  check.that(pcall(function() while b:read() do end end) or true)
  b:close()
end

-- A stream that nothing refers to is closed.
do
  local listener = net.listen 'tcp://127.0.0.1:0'
  local server
  do
    local client = net.connect(listener:addr())
    server = listener:accept()
    client:write 'x'
    check.equal(server:read(1), 'x')
  end
  local ended = yue.spawn(server.read, server)
  check.eventually(function()
    collectgarbage()
    return ended:done()
  end)
  check.equal(ended:get(), nil)
  listener:close()
end

-- What a client opened is closed with it.
do
  local listener = net.listen 'tcp://127.0.0.1:0'
  local kept
  yue.client(function()
    kept = net.connect(listener:addr())
    return true
  end)
  check.contains(tostring(kept), '(closed)')
  check.equal(listener:accept():read(), nil)
  listener:close()
end

-- -- Addresses

do
  local a, b = pair()
  check.equal(a:addr(), b:peer_addr())
  check.equal(b:addr(), a:peer_addr())
  check.that(a:addr():find '^tcp://127%.0%.0%.1:%d+$')
  check.equal(tostring(a), 'the stream to ' .. a:peer_addr())
  check.equal(tostring(b), 'the stream from ' .. a:addr())
  check.equal(a:peer_name(), nil)
  a:close()
  check.equal(a:addr(), b:peer_addr(), 'it is still known')
  a, b = pair('unix://' .. folder .. '/named')
  check.equal({ a:addr(), b:peer_addr() }, {})
  check.equal(b:addr(), 'unix://' .. folder .. '/named')
  check.equal(a:peer_addr(), 'unix://' .. folder .. '/named')
  check.equal(tostring(b), 'a stream from unix://' .. folder .. '/named')
  check.equal(tostring(pair 'tcp://[::1]:0'):find '^the stream to tcp://%[::1%]:%d+$' ~= nil, true)
end

-- -- Errors

local gone = net.listen 'tcp://127.0.0.1:0'
gone:close()
local e = check.raises('ConnectionRefusedError', 'nothing listens there', net.connect, gone:addr())
check.equal(e.code, 'ECONNREFUSED')
check.that(e:is_a 'TransportError')
check.contains(e.msg, 'cannot connect to ' .. gone:addr() .. ': connection refused')
e = check.raises('ConnectionRefusedError', 'no socket at the path', net.connect, 'unix:///no/such/socket')
check.equal(e.code, 'ENOENT')
e = check.raises('TransportError', 'the name cannot be resolved', net.connect, 'tcp://no-such-host.invalid:1')
check.equal(e.code, 'ENOTFOUND')
check.raises('TransportError', nil, net.connect, 'unix:///' .. ('x'):rep(200))
-- An address of a network for documentation, where nobody answers; some machines refuse it.
local ok, late = pcall(net.connect, 'tcp://192.0.2.1:9', { timeout = 0.05 })
check.that(not ok and (late:is_a 'TransportError' or late:is_a 'TimeoutError'), tostring(late))
if late:is_a 'TimeoutError' then check.contains(late.msg, 'no answer within 0.05 s') end
check.raises('TimeoutError', nil, yue.timeout, 0, net.connect, gone:addr())
do
  local a, b = pair()
  a:write 'unread'
  check.equal(b:read(1), 'u')
  a:close()
  -- A close with unread bytes resets the connection.
  b:write 'x'
  local _, reset = pcall(function() while b:read() do end return 'the end' end)
  check.that(reset == 'the end' or reset.code == 'ECONNRESET')
end

check.raises('ArgumentError', 'yue.net.connect takes an address, such as tcp://localhost:8080, not nil', net.connect)
check.raises('AddressError', 'the port is missing', net.connect, 'tcp://localhost')
check.raises('AddressError', 'datagrams are sent by yue.net.udp', net.connect, 'udp://localhost:1')
check.raises('AddressError', 'yue.net has tcp://, tls:// and unix://', net.connect, 'ws://localhost:1/')
check.raises('ArgumentError', 'no option time; it has: ca, cert', net.connect, gone:addr(), { time = 1 })
check.raises('ArgumentError', 'the option timeout is a number above 0', net.connect, gone:addr(), { timeout = 0 })
check.raises('ArgumentError', 'the options are a table', net.connect, gone:addr(), 5)
check.raises('ArgumentError', 'the option ca is for tls://', net.connect, gone:addr(), { ca = 'x' })
local idle = pair()
check.raises('ArgumentError', 'read takes nothing', idle.read, idle, -1)
check.raises('ArgumentError', 'read takes nothing', idle.read, idle, '*l')
check.raises('ArgumentError', 'line takes a number of bytes', idle.line, idle, 0)
check.raises('ArgumentError', 'write takes a string', idle.write, idle)
check.raises('ArgumentError', 'write takes a string', idle.write, idle, 'a', {})
check.raises('ArgumentError', 'set_timeout takes seconds', idle.set_timeout, idle, 'x')
check.raises('ArgumentError', 'set_timeout takes seconds', idle.set_timeout, idle, 0)

-- -- Names

check.equal(net.resolve '127.0.0.1', { '127.0.0.1' })
check.equal(net.resolve '::1', { '::1' })
check.equal(net.resolve 'localhost', { '127.0.0.1', '::1' })
check.equal(check.raises('TransportError', "cannot resolve 'no-such.invalid'", net.resolve, 'no-such.invalid').code,
  'ENOTFOUND')
check.raises('ArgumentError', 'the name of a host, not nil', net.resolve)
check.raises('ArgumentError', 'the name of a host', net.resolve, '')

check.done()
