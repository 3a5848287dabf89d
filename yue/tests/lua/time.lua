-- Time: sleep, yield, timeout, shield, now, timers.
local check = require 'check'

local before = yue.util.time.now()
check.that(before % 1 == 0 and before > 1.6e15, 'microseconds since 1970')
yue.sleep(0.01)
check.that(yue.util.time.now() - before >= 10000)
yue.util.time.suspend(0.001)
yue.sleep(0)
yue.sleep(-1)
yue.yield()

-- Each fiber that is ready runs once in between.
local order = {}
yue.spawn(function() order[#order + 1] = 'a' yue.yield() order[#order + 1] = 'c' end)
yue.spawn(function() order[#order + 1] = 'b' yue.sleep(0) order[#order + 1] = 'd' end)
yue.yield() yue.yield() yue.yield()
check.equal(table.concat(order), 'abcd')

-- timeout
check.equal({ yue.timeout(60, function(...) return ... end, 1, nil, 3) }, { 1, nil, 3 })
check.raises('TimeoutError', nil, yue.timeout, 0.01, yue.sleep, 60)
check.raises('TimeoutError', nil, yue.timeout, 60, yue.timeout, 0.01, yue.sleep, 60)
check.raises('TimeoutError', nil, yue.timeout, 0.01, yue.timeout, 60, yue.sleep, 60)
check.raises('RuntimeError', 'mine', yue.timeout, 60, function() error('mine') end)
yue.sleep(0.001) -- The time of another is not ours.

-- shield
check.equal(yue.timeout(0.005, yue.shield, function() yue.sleep(0.02) return 'whole' end), 'whole')
local f = yue.spawn(function() return yue.shield(function() yue.sleep(0.02) return 'kept' end) end)
yue.yield()
f:cancel()
check.equal(f:get(), 'kept')

-- Recursion through them uses the native stack, and ends in an error, like any other recursion.
local function deeper_timeout() return yue.timeout(60, deeper_timeout) end
check.raises('RuntimeError', nil, deeper_timeout)
local function deeper_shield() return yue.shield(deeper_shield) end
check.raises('RuntimeError', nil, deeper_shield)
check.raises('RuntimeError', nil, function() return yue.spawn(deeper_timeout):get() end)

-- Timers
local ticks = 0
local timer = yue.timer(0.001, 0.002)
timer:bind('tick', function() ticks = ticks + 1 if ticks == 5 then timer:close() end end)
check.eventually(function() return ticks == 5 end)
yue.sleep(0.01)
check.equal(ticks, 5)
timer:close()

-- Once, without an interval; then it is closed by itself.
local once = 0
timer = yue.timer(0.001)
timer:bind('tick', function() once = once + 1 end)
check.eventually(function() return timer.closed end)
check.equal(once, 1)
check.equal(timer:wait('tick'), false)

-- A slow callback skips: one tick at a time, and none piles up.
local running, most, slow_ticks = 0, 0, 0
timer = yue.timer(0, 0.001)
timer:bind('tick', function()
  running = running + 1
  most = math.max(most, running)
  yue.sleep(0.01)
  running = running - 1
  slow_ticks = slow_ticks + 1
end)
check.eventually(function() return slow_ticks >= 3 end)
timer:close()
check.equal(most, 1)

-- Waiting for a tick; closing from outside ends the wait.
timer = yue.timer(0.001, 0.001)
check.equal(timer:wait('tick'), true)
timer:close()
timer = yue.timer(3600)
yue.spawn(function() yue.sleep(0.005) timer:close() end)
check.equal(timer:wait('tick'), false)
check.contains(tostring(timer), 'timer')

for _, wrong in ipairs { 'x', {}, -1, 0 / 0 } do check.raises('ArgumentError', 'seconds', yue.timer, wrong) end
for _, wrong in ipairs { 'x', {}, -1, 0, 0 / 0 } do check.raises('ArgumentError', 'interval', yue.timer, 1, wrong) end
check.raises('ArgumentError', 'seconds', yue.timer)
for _, wrong in ipairs { 'x', {}, 0 / 0 } do
  check.raises('ArgumentError', 'seconds', yue.sleep, wrong)
  check.raises('ArgumentError', 'seconds', yue.timeout, wrong, print)
end
check.raises('ArgumentError', 'seconds', yue.sleep)
check.raises('ArgumentError', 'function', yue.timeout, 1, 2)
check.raises('ArgumentError', 'function', yue.shield, 2)
check.done()
