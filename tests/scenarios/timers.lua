-- Timers and time limits, while the clock drifts and the date jumps: they follow the time that passes.
local yue = require 'yue'
local sim = require 'yue.sim'

local fault, ended = nil, false
yue.listen('tcp://0.0.0.0:9000', {
  fault = function(text) sim.note(text) fault = text end,
  ended = function() ended = true end,
})

local function host()
  local journal = yue.open('tcp://scenario:9000', { retry = true, timeout = 1e6 }, nil)
  local ticks, began, last = 0, yue.now(), yue.now()
  local timer = yue.timer(0.1, 0.1)
  timer:bind('tick', function()
    ticks = ticks + 1
    local now = yue.now()
    if now < last then journal.fault 'the clock went back' end
    last = now
  end)
  for round = 1, 30 do
    local seconds, began = math.random() * 2, yue.now()
    local ok, e = pcall(yue.timeout, seconds, yue.sleep, 1000)
    local took = yue.now() - began
    if ok or e.type ~= 'TimeoutError' then journal.fault('no timeout: ' .. tostring(e)) end
    -- Limits of a second and more are read from a coarse clock, so they may be 10 ms late.
    if took < seconds or took > seconds + 0.011 then
      journal.fault(('a limit of %g s took %g s'):format(seconds, took))
    end
  end
  timer:close()
  local expected = (yue.now() - began) / 0.1
  if math.abs(ticks - expected) > 2 then journal.fault(('%d ticks, not %d'):format(ticks, expected)) end
  journal.ended()
end

sim.host('host', host)
sim.at(1, function() sim.drift('host', 300) end)
sim.at(8, function() sim.drift('host', -300) end)
for i = 1, 5 do
  sim.at(i * 2, function() sim.jump_clock('host', sim.random(-100000, 100000)) end)
end
sim.always('time passes as it should', function() return not fault, fault end)
sim.eventually('the host ends', 200, function() return ended end)
