-- Task groups: many timers of coarse resolution.
--
-- The tasks of a group lie in a ring of slots, one for each tick of its clock, which is `resolution` seconds. One fiber
-- walks around the ring while the group has tasks, so a task costs a table and no fiber until it is due. The ring
-- covers `max_interval`: a slot has only tasks that are due at the same tick.
local core, yue, internal = ...
local type, floor, ceil, min = type, math.floor, math.ceil, math.min

-- A ring of more slots would be a mistake: a coarser resolution is meant.
local SLOTS_MAX = 2 ^ 20

local Group = internal.new_class 'task group'
local Task = internal.emitter_class { 'tick' }

local groups = {} -- by name

function Group:__tostring()
  return ("task group '%s' (%d of %d tasks)"):format(self.name, self.count, self.max)
end

function Task:__tostring()
  return ("task of group '%s'%s"):format(self.group.name, self.closed and ' (closed)' or '')
end

--- Puts a task into the slot of the first tick that is not before its time.
local function plan(group, task)
  local tick = ceil((task.at - group.origin) / group.resolution)
  -- Rounding must put it neither into the slot that is being run nor a whole turn ahead.
  tick = min(math.max(tick, group.tick + 1), group.tick + group.slot_count - 1)
  local list = group.slots[tick % group.slot_count]
  if not list then
    list = {}
    group.slots[tick % group.slot_count] = list
  end
  task.list, task.before, task.after = list, list.last, nil
  if list.last then list.last.after = task else list.first = task end
  list.last = task
end

local function run_task(task)
  internal.emit_inline(task, 'tick')
  task.in_callback = false
  if not task.interval then task:close() end
end

local function start_task(group, task)
  -- It was planned while the group was late, and did not fit into the ring.
  if ceil((task.at - group.origin) / group.resolution) > group.tick then return plan(group, task) end
  if task.interval then
    task.at = task.at + task.interval
    local late = core.clock() - task.at
    if late > 0 then task.at = task.at + ceil(late / task.interval) * task.interval end
    plan(group, task)
  end
  -- A tick that finds its callback still busy is skipped.
  if task.in_callback then return end
  task.in_callback = true
  internal.start_in(task.scope, run_task, task)
end

local function run_slot(group)
  local list = group.slots[group.tick % group.slot_count]
  if not list then return end
  group.slots[group.tick % group.slot_count] = nil
  local task = list.first
  while task do
    -- A new plan links the task anew. None is closed here: callbacks run later, in fibers of their own.
    local after = task.after
    task.list = nil
    start_task(group, task)
    task = after
  end
end

local function run_group(group)
  internal.mark_helper(true)
  while group.count > 0 do
    local at = group.origin + (group.tick + 1) * group.resolution
    group.wait = core.prepare()
    local woken, stopped = core.park(group.wait, 'tick', at - core.clock())
    group.wait = nil
    if woken == nil then
      internal.mark_helper(false)
      group.is_running = false
      error(stopped, 0)
    end
    local now = floor((core.clock() - group.origin) / group.resolution)
    -- After a long sleep of the machine one turn runs all that is due.
    for _ = 1, min(now - group.tick, group.slot_count) do
      group.tick = group.tick + 1
      run_slot(group)
    end
    if now > group.tick then group.tick = now end
  end
  internal.mark_helper(false)
  group.is_running = false
end

local function is_seconds(value)
  return type(value) == 'number' and value > 0 and value < math.huge
end

--- A task, which emits `tick` after `start` seconds, and then every `interval` seconds (once, without it): never early,
--- and up to the group's resolution late.
function Group:alloc(start, interval)
  if start ~= 0 and not (is_seconds(start) and start <= self.max_interval) then
    internal.argument_error(('the start of a task is a number of seconds from 0 to max_interval, %s'):format(
      self.max_interval))
  end
  if interval ~= nil and not (is_seconds(interval) and interval <= self.max_interval) then
    internal.argument_error(('the interval of a task is a number of seconds above 0, up to max_interval, %s'):format(
      self.max_interval))
  end
  if self.count >= self.max then
    error(yue.errors.RuntimeError.new(('%s is full: close tasks, or create the group with a larger max'):format(
      tostring(self))), 0)
  end
  if not self.is_running then
    -- The ring is empty, so its clock may begin anew.
    self.origin, self.tick, self.is_running = core.clock(), 0, true
    core.spawn_helper(run_group, self)
  end
  local task = internal.new_emitter(Task, {
    group = self, at = core.clock() + start, interval = interval, in_callback = false, list = nil, before = nil,
    after = nil,
  })
  self.count = self.count + 1
  plan(self, task)
  internal.adopt_current(task)
  return task
end

function Task:on_close()
  local group = self.group
  internal.delist(self)
  group.count = group.count - 1
  -- Otherwise the program would end up to one tick later.
  if group.count == 0 and group.wait then core.wake(group.wait) end
end

local function check_group(name, max, max_interval, resolution)
  if type(name) ~= 'string' or name == '' then internal.argument_error('yue.taskgrp takes a name, a string') end
  if type(max) ~= 'number' or not (max >= 1) or max % 1 ~= 0 then
    internal.argument_error('yue.taskgrp: max is the number of tasks, a whole number from 1 on')
  end
  if not is_seconds(max_interval) then
    internal.argument_error('yue.taskgrp: max_interval is a number of seconds above 0')
  end
  if not is_seconds(resolution) or resolution > max_interval or max_interval / resolution > SLOTS_MAX then
    internal.argument_error(
      ('yue.taskgrp: resolution is a number of seconds, from max_interval / %d to max_interval'):format(SLOTS_MAX))
  end
end

--- A group of up to `max` tasks whose times are up to `max_interval` seconds, exact to `resolution` seconds. The same
--- name returns the same group.
function yue.taskgrp(name, max, max_interval, resolution)
  check_group(name, max, max_interval, resolution)
  local group = groups[name]
  if group then
    if group.max ~= max or group.max_interval ~= max_interval or group.resolution ~= resolution then
      internal.argument_error(("the task group '%s' exists with other parameters: %d, %s, %s"):format(
        name, group.max, group.max_interval, group.resolution))
    end
    return group
  end
  group = setmetatable({
    name = name, max = max, max_interval = max_interval, resolution = resolution, count = 0, slots = {},
    slot_count = ceil(max_interval / resolution) + 2, origin = 0, tick = 0, is_running = false,
  }, Group)
  groups[name] = group
  return group
end
