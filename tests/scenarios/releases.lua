-- Functions as values: a function that a peer has just sent can be called, whatever was released before.
local yue = require 'yue'
local sim = require 'yue.sim'

local calls, fault = 0, nil
yue.listen('tcp://0.0.0.0:9000', {
  called = function() calls = calls + 1 end,
  lost = function(text) sim.note(text) fault = text end,
})

local function server()
  local journal = yue.open('tcp://scenario:9000', { retry = true }, nil)
  yue.listen('tcp://0.0.0.0:7000', {
    visit = function(f, number)
      -- The collector releases functions of earlier calls, while the same function arrives again.
      if number % 3 == 0 then collectgarbage() end
      if number % 2 == 0 then yue.sleep(math.random() * 0.002) end
      local ok, result = pcall(f, number)
      if ok then
        assert(result == number)
        journal.notify_called()
      elseif result.type == 'NoMethodError' then
        journal.lost(tostring(result))
      end
      f = nil
      collectgarbage 'step'
    end,
  })
end

local function client()
  local server = yue.open('tcp://server:7000', { retry = true, timeout = 5 }, nil)
  local function answer(number) return number end
  for round = 1, 40 do
    local fibers = {}
    for i = 1, 5 do
      fibers[i] = yue.spawn(function() return pcall(server.visit, answer, round * 5 + i) end)
    end
    yue.all(fibers)
    if round % 7 == 0 then collectgarbage() end
  end
end

sim.host('server', server)
sim.host('a', client)
sim.host('b', client)
sim.chaos(2, { hosts = { 'server', 'a', 'b' }, seconds = 5 })
sim.always('a function that arrived can be called', function() return not fault, fault end)
sim.eventually('functions are called', 60, function() return calls > 100 end)
