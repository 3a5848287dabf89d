-- Answers that come after their callers have given up: none reaches another call.
local yue = require 'yue'
local sim = require 'yue.sim'

local fault, ended = nil, 0
yue.listen('tcp://0.0.0.0:9000', {
  fault = function(text) sim.note(text) fault = text end,
  ended = function() ended = ended + 1 end,
})

local function server()
  yue.listen('tcp://0.0.0.0:7000', {
    slow = function(value)
      yue.sleep(math.random() * 0.02)
      return value
    end,
  })
end

local function client()
  local journal = yue.open('tcp://scenario:9000', { retry = true }, nil)
  local server = yue.open('tcp://server:7000', { retry = true }, nil)
  local fibers = {}
  for i = 1, 50 do
    fibers[i] = yue.spawn(function()
      for j = 1, 20 do
        local value = i * 1000 + j
        local ok, result = pcall(server.timed_slow, math.random() * 0.02, value)
        if ok and result ~= value then journal.fault(('%d got %s'):format(value, tostring(result))) end
      end
    end)
  end
  yue.all(fibers)
  -- A loop that was idle for longer than a call's time starts the call nevertheless.
  yue.sleep(1000)
  local ok, result = pcall(server.timed_slow, 0.1, 1)
  if not ok then journal.fault('a call after a pause failed: ' .. tostring(result)) end
  journal.ended()
end

sim.host('server', server)
sim.host('a', client)
sim.host('b', client)
sim.link('server', 'a', { latency = 0.002, jitter = 0.01 })
sim.always('an answer reaches its own call', function() return not fault, fault end)
sim.eventually('both clients end', 2000, function() return ended == 2 end)
