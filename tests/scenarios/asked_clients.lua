-- A server asks its clients, whose links are replaced while they think: an answer reaches its own question, or none.
local yue = require 'yue'
local sim = require 'yue.sim'

local fault, answered = nil, 0
yue.listen('tcp://0.0.0.0:9000', {
  fault = function(text) sim.note(text) fault = text end,
  answered = function() answered = answered + 1 end,
})

local function server()
  local journal = yue.open('tcp://scenario:9000', { retry = true }, nil)
  local asked = 0
  yue.listen('tcp://0.0.0.0:7000', {
    ready = function()
      -- Asks each link's client from its first call on.
      local link = yue.peer()
      if link.asked then return end
      link.asked = true
      local client = link.procs
      for _ = 1, 3 do
        yue.spawn(function()
          while true do
            asked = asked + 1
            local value = asked
            local ok, result = pcall(client.timed_think, 10, value)
            if not ok then return end
            if result ~= value then journal.fault(('%d got %s'):format(value, tostring(result))) end
            journal.answered()
          end
        end)
      end
    end,
  })
end

local function client()
  local server = yue.open('tcp://server:7000', { retry = true }, {
    think = function(value)
      yue.sleep(math.random() * 0.05)
      return value
    end,
  })
  while true do
    pcall(server.ready)
    yue.sleep(0.01)
  end
end

sim.host('server', server)
sim.host('a', client)
sim.host('b', client)
for i = 1, 60 do
  sim.at(sim.random() * 2, function() sim.reset('server', i % 2 == 0 and 'a' or 'b') end)
end
sim.always('an answer reaches its own question', function() return not fault, fault end)
sim.eventually('questions are answered', 30, function() return answered > 200 end)
