-- Calls by datagrams that are lost, repeated and overtake each other: an answer reaches its own call, or none.
local yue = require 'yue'
local sim = require 'yue.sim'

local fault, ended = nil, 0
yue.listen('tcp://0.0.0.0:9000', {
  fault = function(text) sim.note(text) fault = text end,
  ended = function() ended = ended + 1 end,
})

local function server()
  yue.listen('udp://0.0.0.0:7000', {
    echo = function(value)
      -- A request that arrives twice is answered twice, the second time perhaps much later.
      yue.sleep(math.random() * 0.005)
      return value
    end,
  })
end

local function client()
  local journal = yue.open('tcp://scenario:9000', { retry = true }, nil)
  local server = yue.open('udp://server:7000', { timeout = 0.02 }, nil)
  local answers, fibers = 0, {}
  for i = 1, 5 do
    fibers[i] = yue.spawn(function()
      for j = 1, 60 do
        local value = i * 1000 + j
        local ok, result = pcall(server.echo, value)
        if ok and result ~= value then journal.fault(('%d got %s'):format(value, tostring(result))) end
        if ok then answers = answers + 1 end
      end
    end)
  end
  yue.all(fibers)
  if answers < 100 then journal.fault(answers .. ' of 300 calls were answered') end
  journal.ended()
end

sim.host('server', server)
sim.host('a', client)
sim.host('b', client)
for _, name in ipairs { 'a', 'b' } do
  sim.link('server', name, { jitter = 0.002, loss = 0.05, duplicate = 0.3, reorder = 0.3 })
end
sim.always('an answer reaches its own call', function() return not fault, fault end)
sim.eventually('both clients end', 100, function() return ended == 2 end)
