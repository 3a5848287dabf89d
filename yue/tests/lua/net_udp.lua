-- Datagrams: addresses, sizes, closes, errors.
local check = require 'check'
local net = yue.net

for _, host in ipairs { '127.0.0.1', '[::1]', 'localhost' } do
  local a, b = net.udp('udp://' .. host .. ':0'), net.udp('udp://' .. host .. ':0')
  check.that(a:addr():find '^udp://.*:%d+$')
  check.equal(tostring(a), 'UDP socket at ' .. a:addr())
  a:send('one', b:addr())
  a:send('', b:addr())
  a:send('three', b:addr())
  check.equal({ b:receive() }, { 'one', a:addr() })
  check.equal({ b:receive(1) }, { '', a:addr() })
  local text, from = b:receive()
  check.equal(text, 'three')
  b:send('back', from)
  check.equal({ a:receive() }, { 'back', b:addr() })
  -- With a peer.
  a:connect(b:addr())
  a:send 'to the peer'
  check.equal({ b:receive() }, { 'to the peer', a:addr() })
  local stranger = net.udp('udp://' .. host .. ':0')
  stranger:send('dropped', a:addr())
  b:send('kept', a:addr())
  check.equal({ a:receive() }, { 'kept', b:addr() })
  a:close()
  b:close()
end

-- The largest datagram arrives whole, a larger one is refused.
local a, b = net.udp(), net.udp 'udp://127.0.0.1:0'
local port = a:addr():match '^udp://0%.0%.0%.0:(%d+)$'
check.that(port)
local largest = ('x'):rep(65507)
a:send(largest, b:addr())
check.that(b:receive() == largest)
local e = check.raises('ArgumentError', 'a datagram has at most 65507 bytes', a.send, a, largest .. 'x', b:addr())
check.equal(e.code, 'EMSGSIZE')

-- Limits of time.
check.raises('TimeoutError', nil, b.receive, b, 0.02)
check.raises('TimeoutError', nil, yue.timeout, 0.02, b.receive, b)
local hasty = net.udp('udp://127.0.0.1:0', { timeout = 0.02 })
check.raises('TimeoutError', nil, hasty.receive, hasty)

-- Several fibers receive; a close ends the waits.
local fibers = {}
for i = 1, 3 do fibers[i] = yue.spawn(b.receive, b) end
yue.yield()
a:send('for one', 'udp://localhost:' .. b:addr():match '%d+$')
check.eventually(function()
  for i = 1, 3 do if fibers[i]:done() then return true end end
end)
b:close()
b:close()
local failed = 0
for i = 1, 3 do
  local ok, result = fibers[i]:sync()
  if ok then
    check.equal(result, 'for one')
  else
    check.equal(result.code, 'EBADF')
    failed = failed + 1
  end
end
check.equal(failed, 2)
for _, name in ipairs { 'receive', 'send', 'connect' } do
  local arguments = { receive = {}, send = { 'x' }, connect = { a:addr() } }
  e = check.raises('RuntimeError', 'is closed', b[name], b, unpack(arguments[name]))
  check.equal(e.code, 'EBADF')
end

-- Errors.
e = check.raises('AddressError', 'give the address of the receiver', a.send, a, 'x')
check.equal(e.code, 'EDESTADDRREQ')
e = check.raises('AddressError', 'bind udp://[::]:0', a.send, a, 'x', 'udp://[::1]:9')
check.equal(e.code, 'EAFNOSUPPORT')
e = check.raises('AddressError', 'the option broadcast', a.send, a, 'x', 'udp://255.255.255.255:9')
check.equal(e.code, 'EACCES')
net.udp({ broadcast = true }):close()
local l = net.udp 'udp://127.0.0.1:0'
check.equal(check.raises('AddressError', 'cannot bind', net.udp, l:addr()).code, 'EADDRINUSE')
-- Nobody receives: a connected socket learns of it.
local dead = net.udp 'udp://127.0.0.1:0'
dead:close()
l:connect(dead:addr())
l:send 'x'
e = check.raises('ConnectionRefusedError', nil, l.receive, l, 10)
check.equal(e.code, 'ECONNREFUSED')
check.raises('TransportError', 'the name cannot be resolved', a.send, a, 'x', 'udp://no-such.invalid:1')
check.raises('AddressError', 'udp:// addresses', a.send, a, 'x', 'tcp://localhost:1')
check.raises('AddressError', 'yue.open and yue.listen', net.udp, 'mcast://239.1.2.3:9')
check.raises('AddressError', 'the port is missing', a.send, a, 'x', 'udp://localhost')
check.raises('ArgumentError', 'send takes a string', a.send, a, nil, l:addr())
check.raises('ArgumentError', 'send takes an address', a.send, a, 'x', 5)
check.raises('ArgumentError', 'connect takes an address', a.connect, a)
check.raises('ArgumentError', 'receive takes seconds', a.receive, a, 'x')
check.raises('ArgumentError', 'no option port', net.udp, nil, { port = 5 })
check.raises('ArgumentError', 'takes an address', net.udp, 5)

-- A socket that nothing refers to is closed.
local addr = net.udp('udp://127.0.0.1:0'):addr()
check.eventually(function()
  collectgarbage()
  local ok, socket = pcall(net.udp, addr)
  if ok then socket:close() end
  return ok
end)

check.done()
