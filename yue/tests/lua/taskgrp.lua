-- Task groups: many timers of coarse resolution.
local check = require 'check'

local group = yue.taskgrp('test', 5000, 1, 0.002)
check.equal(yue.taskgrp('test', 5000, 1, 0.002), group)
check.contains(tostring(group), "task group 'test' (0 of 5000 tasks)")

-- Once: never early, and closed by itself.
local began, ticked = yue.now(), nil
local task = group:alloc(0.01)
task:bind('tick', function() ticked = yue.now() end)
check.contains(tostring(task), "task of group 'test'")
check.equal(task:wait('tick'), true)
check.eventually(function() return task.closed end)
check.that(ticked - began >= 0.01)
check.equal(task:wait('tick'), false)
check.raises('RuntimeError', 'closed', task.bind, task, 'tick', print)
check.equal(group.count, 0)

-- Again and again, until it is closed, also from its own callback.
local count = 0
task = group:alloc(0, 0.004)
task:bind('tick', function()
  count = count + 1
  if count == 5 then task:close() end
end)
check.eventually(function() return count == 5 end)
task:close()
yue.sleep(0.02)
check.equal(count, 5)

-- Ticks do not drift: the fiftieth is not before its time.
count, began = 0, yue.now()
task = group:alloc(0.003, 0.003)
task:bind('tick', function() count = count + 1 end)
check.eventually(function() return count >= 20 end)
check.that(yue.now() - began >= 20 * 0.003)
task:close()

-- A slow callback skips ticks, and a task that waits for its time is not delayed by it.
local running, most, slow_ticks = 0, 0, 0
local slow, quick_ticks = group:alloc(0, 0.002), 0
slow:bind('tick', function()
  running = running + 1
  most = math.max(most, running)
  yue.sleep(0.02)
  running = running - 1
  slow_ticks = slow_ticks + 1
end)
local quick = group:alloc(0, 0.002)
quick:bind('tick', function() quick_ticks = quick_ticks + 1 end)
check.eventually(function() return slow_ticks >= 3 end)
check.that(quick_ticks > slow_ticks)
slow:close()
quick:close()
check.equal(most, 1)

-- Thousands, with times all over the range; half of them are closed before.
local fired, tasks = 0, {}
for i = 1, 5000 do
  tasks[i] = group:alloc(i % 97 * 0.001)
  tasks[i]:bind('tick', function() fired = fired + 1 end)
end
check.raises('RuntimeError', "task group 'test' (5000 of 5000 tasks) is full", group.alloc, group, 1)
for i = 1, 5000, 2 do tasks[i]:close() end
check.equal(group.count, 2500)
check.eventually(function() return group.count == 0 end)
check.equal(fired, 2500)

-- The longest and the shortest time: a ring of few slots.
local ring = yue.taskgrp('ring', 10, 0.02, 0.01)
for _, start in ipairs { 0, 0.01, 0.02, 0.0199999 } do
  began = yue.now()
  task = ring:alloc(start)
  check.equal(task:wait('tick'), true)
  check.that(yue.now() - began >= start)
end
count = 0
task = ring:alloc(0.02, 0.02)
task:bind('tick', function() count = count + 1 end)
check.eventually(function() return count == 3 end)
task:close()

-- A loop that was held: what is due fires, and nothing fires early.
local early = false
for i = 1, 10 do
  local at = yue.now() + i * 0.002
  local one = group:alloc(i * 0.002)
  one:bind('tick', function() early = early or yue.now() < at end)
end
local until_then = yue.now() + 0.03
while yue.now() < until_then do end
local late = group:alloc(1)
local late_at = yue.now() + 1
late:bind('tick', function() early = early or yue.now() < late_at end)
check.eventually(function() return group.count == 0 end)
check.that(not early)

-- Tasks of a client end with it.
yue.client(function()
  local mine = group:alloc(1, 1)
  mine:bind('tick', print)
  check.equal(group.count, 1)
  return true
end)
check.equal(group.count, 0)

check.raises('ArgumentError', 'other parameters', yue.taskgrp, 'test', 1, 1, 0.002)
for _, wrong in ipairs { -1, 2, 'x', 0 / 0, math.huge } do
  check.raises('ArgumentError', 'max_interval', group.alloc, group, wrong)
  check.raises('ArgumentError', 'interval', group.alloc, group, 0, wrong)
end
check.raises('ArgumentError', 'interval', group.alloc, group, 0, 0)
check.raises('ArgumentError', 'start', group.alloc, group)
check.raises('ArgumentError', 'name', yue.taskgrp, 5, 1, 1, 1)
check.raises('ArgumentError', 'max is', yue.taskgrp, 'a', 0, 1, 1)
check.raises('ArgumentError', 'max_interval', yue.taskgrp, 'a', 1, 0, 1)
check.raises('ArgumentError', 'resolution', yue.taskgrp, 'a', 1, 1, 2)
check.raises('ArgumentError', 'resolution', yue.taskgrp, 'a', 1, 1e6, 1e-3)
local bad = group:alloc(1)
check.raises('ArgumentError', 'it has: tick', bad.bind, bad, 'tock', print)
bad:close()
check.done()
