-- A peer that sends damaged messages, to a server and as one: others are served meanwhile.
local yue = require 'yue'
local sim = require 'yue.sim'

local good = 0
yue.listen('tcp://0.0.0.0:9000', { good = function() good = good + 1 end })

local function server()
  yue.listen('tcp://0.0.0.0:7000', {
    echo = function(...) return ... end,
    call_back = function(f) return f() end,
  })
end

local function adversary()
  local pieces = {
    '\148\0\1\164echo\145\1',                      -- a request
    '\147\2\164echo\145\192',                      -- a notification
    '\148\1\1\192\1', '\148\1\255\192\1',          -- answers that nobody waits for
    '\147\2\171$yue/cancel\145\1',
    '\147\2\172$yue/release\145\145\146\1\5',
    '\148\0\2\169call_back\145\213\89\1\7',
    '\147\2\170$yue/chunk\147\1\2\160',
    '\220\255\255', '\223\255\255\255\255', '\193',
  }
  local function damaged()
    local bytes = {}
    for _ = 1, math.random(8) do bytes[#bytes + 1] = pieces[math.random(#pieces)] end
    bytes = table.concat(bytes)
    for _ = 1, math.random(0, 3) do
      local at = math.random(#bytes)
      bytes = bytes:sub(1, at - 1) .. string.char(math.random(0, 255)) .. bytes:sub(at + 1)
    end
    return bytes
  end
  yue.spawn(function()
    while true do
      local ok, socket = pcall(yue.net.connect, 'tcp://server:7000')
      if ok then
        for _ = 1, math.random(4) do
          if not pcall(socket.write, socket, damaged()) then break end
          yue.sleep(math.random() * 0.01)
        end
        socket:close()
      end
      yue.sleep(0.01)
    end
  end)
  local listener = yue.net.listen 'tcp://0.0.0.0:7001'
  while true do
    local socket = listener:accept()
    yue.spawn(function()
      pcall(socket.write, socket, damaged())
      yue.sleep(0.01)
      socket:close()
    end)
  end
end

local function client()
  local journal = yue.open('tcp://scenario:9000', { retry = true }, nil)
  local server = yue.open('tcp://server:7000', { retry = true }, nil)
  local enemy = yue.open('tcp://adversary:7001', { retry = true, timeout = 0.05 }, nil)
  for i = 1, 100 do
    local ok, e = pcall(enemy.echo, i)
    assert(not ok and yue.errors.RPCError ~= nil)
    assert(server.echo(i) == i)
    assert(server.call_back(function() return i end) == i)
    journal.good()
  end
end

sim.host('server', server)
sim.host('adversary', adversary)
sim.host('client', client)
sim.eventually('all good calls are answered', 120, function() return good == 100 end)
