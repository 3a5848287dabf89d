--! stderr: net_listen.lua:14: it failed
--! stderr: yue error: the handler of a stream from unix://
-- Listeners of streams: handlers, bounds, closes, shortages.
local check = require 'check'
local net, fs = yue.net, yue.fs
local folder = fs.temp()

-- -- With a function

local served = 0
local function echo(stream)
  served = served + 1
  for line in stream:lines() do
    if line == 'fail' then error('it failed') end
    if line == 'keep' then return end
    stream:write(line, '\n')
  end
end

local listeners = {}
for i, addr in ipairs { 'tcp://127.0.0.1:0', 'unix://' .. folder .. '/echo' } do
  local l = net.listen(addr, echo)
  listeners[i] = l
  check.that(not l:addr():find ':0$')
  check.equal(tostring(l), 'listener at ' .. l:addr())
  local clients = {}
  for n = 1, 20 do clients[n] = net.connect(l:addr()) end
  for n, client in ipairs(clients) do
    client:write(n, '\n')
    check.equal(client:line(), tostring(n))
  end
  check.equal(l:connections(), 20)
  -- The stream is closed when the function returns, or raises, which is logged.
  clients[1]:write 'keep\n'
  check.equal(clients[1]:read(), nil)
  clients[2]:write 'fail\n'
  check.equal(clients[2]:read(), nil)
  clients[3]:close()
  check.eventually(function() return l:connections() == 17 end)
  -- Nobody new gets in; those that are in stay.
  l:close()
  l:close()
  check.contains(tostring(l), '(closed)')
  check.raises('ConnectionRefusedError', nil, net.connect, l:addr())
  clients[4]:write 'still\n'
  check.equal(clients[4]:line(), 'still')
  for _, client in ipairs(clients) do client:close() end
  check.eventually(function() return l:connections() == 0 end)
end
check.equal(fs.exists(folder .. '/echo'), false, 'the file goes with the listener')
check.equal(served, 40)

-- A port that is taken, and a socket file.
do
  local l = net.listen('tcp://127.0.0.1:0', echo)
  local e = check.raises('AddressError', 'another socket has this address', net.listen, l:addr(), echo)
  check.equal(e.code, 'EADDRINUSE')
  l:close()
  net.listen(l:addr(), echo):close()
  l = net.listen('unix://' .. folder .. '/taken')
  check.equal(check.raises('AddressError', 'cannot listen at unix://', net.listen, l:addr()).code, 'EADDRINUSE')
  l:close()
  fs.write(folder .. '/file', 'precious')
  check.raises('Error', 'not a socket', net.listen, 'unix://' .. folder .. '/file')
  check.equal(fs.read(folder .. '/file'), 'precious')
  check.equal(check.raises('AddressError', nil, net.listen, 'tcp://192.0.2.1:0').code, 'EADDRNOTAVAIL')
end

-- A bound: the others wait, and come in when there is room.
do
  local open, most = 0, 0
  local l = net.listen('tcp://127.0.0.1:0', { connections_max = 3 }, function(stream)
    open = open + 1
    most = math.max(most, open)
    stream:write 'hello\n'
    stream:read()
    open = open - 1
  end)
  local clients = {}
  for i = 1, 10 do clients[i] = net.connect(l:addr()) end
  for i = 1, 3 do check.equal(clients[i]:line(), 'hello') end
  check.raises('TimeoutError', nil, yue.timeout, 0.05, clients[4].line, clients[4])
  check.equal(l:connections(), 3)
  for i = 4, 10 do
    clients[i - 3]:close()
    check.equal(clients[i]:line(), 'hello')
  end
  check.equal(most, 3)
  l:close()
end

-- Closed while it waits for room.
do
  local l = net.listen('tcp://127.0.0.1:0', { connections_max = 1 }, function(stream) stream:read() end)
  local client = net.connect(l:addr())
  check.eventually(function() return l:connections() == 1 end)
  l:close()
  check.eventually(function() return l.fiber:done() end)
  client:close()
end

-- A time limit of the listener is that of each operation of its streams.
do
  local outcome
  local l = net.listen('tcp://127.0.0.1:0', { timeout = 0.05 }, function(stream)
    outcome = check.raises('TimeoutError', nil, stream.line, stream)
  end)
  local client = net.connect(l:addr())
  check.equal(client:read(), nil)
  check.that(outcome)
  l:close()
end

-- A handler may call back, listen and connect itself; a client of yue.client is ended with it.
do
  local l, streams = nil, {}
  yue.client(function()
    l = net.listen('tcp://127.0.0.1:0', function(stream)
      streams[#streams + 1] = stream
      stream:line()
    end)
    local client = net.connect(l:addr())
    check.eventually(function() return #streams == 1 end)
    return client ~= nil
  end)
  check.contains(tostring(l), '(closed)')
  check.eventually(function() return tostring(streams[1]):find('(closed)', 1, true) end)
end

-- -- Without a function

do
  local l = net.listen 'tcp://127.0.0.1:0'
  check.raises('TimeoutError', nil, l.accept, l, 0.02)
  local a = net.connect(l:addr())
  local b = l:accept()
  a:write 'x\n'
  check.equal(b:line(), 'x')
  -- Several fibers accept; each client goes to one of them.
  local fibers = {}
  for i = 1, 5 do fibers[i] = yue.spawn(l.accept, l) end
  yue.yield()
  local clients = {}
  for i = 1, 4 do clients[i] = net.connect(l:addr()) end
  check.eventually(function()
    local done = 0
    for i = 1, 5 do if fibers[i]:done() then done = done + 1 end end
    return done == 4
  end)
  -- A close ends the accept that waits.
  l:close()
  local ended = 0
  for i = 1, 5 do if fibers[i]:get() == nil then ended = ended + 1 end end
  check.equal(ended, 1)
  check.equal(l:accept(), nil)
  for _ in l do error('there is none') end
end
do
  local l = net.listen('unix://' .. folder .. '/loop')
  local streams = {}
  local accepting = yue.spawn(function()
    for stream in l do
      streams[#streams + 1] = stream
      if #streams == 3 then l:close() end
    end
  end)
  for _ = 1, 3 do net.connect(l:addr()) end
  accepting:get()
  check.equal(#streams, 3)
end
-- A listener that nothing refers to is closed.
do
  local addr = net.listen('tcp://127.0.0.1:0'):addr()
  check.eventually(function()
    collectgarbage()
    return not pcall(net.connect, addr)
  end)
end

-- -- Errors

local idle = net.listen('tcp://127.0.0.1:0', echo)
check.raises('RuntimeError', 'accept would take them', idle.accept, idle)
idle:close()
check.raises('ArgumentError', 'takes an address', net.listen)
check.raises('ArgumentError', 'and a function(stream), not a string', net.listen, 'tcp://127.0.0.1:0', nil, 'x')
check.raises('ArgumentError', 'connections_max is for a listener with', net.listen, 'tcp://127.0.0.1:0',
  { connections_max = 5 })
check.raises('ArgumentError', 'connections_max is a number of at least 1', net.listen, 'tcp://127.0.0.1:0',
  { connections_max = 0 }, echo)
check.raises('ArgumentError', 'no option ca', net.listen, 'tcp://127.0.0.1:0', { ca = 'x' }, echo)
check.raises('ArgumentError', 'the option cert is for tls://', net.listen, 'tcp://127.0.0.1:0', { cert = 'x' }, echo)
check.raises('ArgumentError', 'needs a certificate', net.listen, 'tls://127.0.0.1:0', echo)
check.raises('AddressError', 'datagrams', net.listen, 'udp://127.0.0.1:0', echo)
local open = net.listen 'tcp://127.0.0.1:0'
check.raises('ArgumentError', 'accept takes seconds', open.accept, open, 'x')
open:close()

check.done()
