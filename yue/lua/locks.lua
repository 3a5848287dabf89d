-- Locks of the fibers of one loop: mutexes, semaphores, events.
--
-- Whoever gives something to a waiting fiber removes the entry of its wait from the list: that is the claim. A fiber
-- that stops waiting looks whether its entry is still in the list. If not, it has been served, and the wait succeeds
-- whatever ended it: a cancel or a time limit then takes effect at the fiber's next wait. So nothing is lost, and the
-- fibers are served in the order in which they came.
local core, yue, internal = ...
local setmetatable, type, error, xpcall = setmetatable, type, error, xpcall
local delist, check_seconds, wrap = internal.delist, internal.check_seconds, internal.wrap

-- Entries of waits that have ended, linked by `after`, for the next waits: making and collecting a table would be a
-- third of the time of a value's way from fiber to fiber. A burst of waits does not keep its memory.
local FREE_MAX = 256
local free, free_count = nil, 0

--- Adds an entry for a wait of the calling fiber to the list, which is any table with the fields `first` and `last`.
--- `value` is for the giver. Raises where the fiber must not wait.
local function enlist(list, value)
  local wait, before = core.prepare(), list.last
  local entry = free
  if entry then
    free, free_count = entry.after, free_count - 1
    entry.wait, entry.list, entry.before, entry.after, entry.value = wait, list, before, nil, value
  else
    entry = { wait = wait, list = list, before = before, after = nil, value = value, closed = false }
  end
  if before then before.after = entry else list.first = entry end
  list.last = entry
  return entry
end

--- Takes back the entry of a wait that has ended, which nobody uses any more.
local function recycle(entry)
  if free_count < FREE_MAX then
    entry.value, entry.closed, entry.before, entry.after = nil, false, nil, free
    free, free_count = entry, free_count + 1
  end
end

--- Waits until another fiber has served the entry: returns true, or false after `timeout` seconds. `why` and `what` are
--- for reports.
local function await(entry, timeout, why, what)
  local woken, stopped = core.park(entry.wait, why, timeout, what)
  if not entry.list then return true end
  delist(entry)
  if woken == nil then error(stopped, 0) end
  return false
end

--- Like `await`, for entries that nobody looks at afterwards.
local function await_once(entry, timeout, why, what)
  local is_served = await(entry, timeout, why, what)
  recycle(entry)
  return is_served
end

--- Serves an entry.
local function serve(entry)
  delist(entry)
  core.wake(entry.wait)
end

internal.enlist_value, internal.await_entry, internal.serve, internal.recycle = enlist, await, serve, recycle

local function new_class(name)
  local class = { __name = name }
  class.__index = class
  core.name_class(class)
  return class
end
internal.new_class = new_class

local function runtime_error(text)
  error(yue.errors.RuntimeError.new(text), 0)
end

local function check_function(name, fn)
  if not internal.is_callable(fn) then internal.argument_error(name .. ' takes a function and its arguments') end
end

-- -- Mutexes -------------------------------------------------------------------------------------------------------

local Mutex = new_class 'mutex'

-- `owner` is the number of the fiber that holds the mutex. A finalizer may run outside fibers.
local OUTSIDE = 'outside'

--- Locks the mutex: waits while another fiber holds it. Returns true, or false after `timeout` seconds.
function Mutex:lock(timeout)
  if timeout ~= nil then check_seconds('mutex:lock', timeout) end
  local fiber = core.current() or OUTSIDE
  if not self.owner then
    self.owner = fiber
    return true
  end
  if self.owner == fiber then
    runtime_error('this fiber has locked the mutex already, and would wait for itself; unlock it first')
  end
  if timeout and timeout <= 0 then return false end
  return await_once(enlist(self, fiber), timeout, 'mutex', self)
end

--- Unlocks the mutex, which the calling fiber must have locked. The fiber that has waited longest gets it.
function Mutex:unlock()
  if self.owner ~= (core.current() or OUTSIDE) then
    runtime_error(self.owner and 'the mutex was locked by another fiber, which alone can unlock it'
      or 'the mutex is not locked')
  end
  local first = self.first
  self.owner = first and first.value or false
  if first then serve(first) end
end

local function end_with(mutex, ok, ...)
  mutex:unlock()
  if not ok then error((...), 0) end
  return ...
end

--- Runs `fn(...)` while the calling fiber holds the mutex, and returns its results. An error unlocks the mutex, too.
function Mutex:with(fn, ...)
  check_function('mutex:with', fn)
  self:lock()
  return end_with(self, xpcall(fn, wrap, ...))
end

--- Whether a fiber holds the mutex.
function Mutex:locked()
  return self.owner ~= false
end

function Mutex:__tostring()
  return self.owner and 'mutex (locked)' or 'mutex'
end

--- Creates a mutex, for data that fibers of this loop change across waits.
function yue.mutex()
  return setmetatable({ owner = false, first = nil, last = nil }, Mutex)
end

-- -- Semaphores ----------------------------------------------------------------------------------------------------

local Semaphore = new_class 'semaphore'

local function check_permits(name, count)
  if type(count) ~= 'number' or not (count >= 1 and count < 2 ^ 53) or count % 1 ~= 0 then
    internal.argument_error(('%s takes a number of permits, a whole number from 1 on, not %s'):format(
      name, internal.describe_value(count)))
  end
end

-- The longest wait is served first, even if a later one wants fewer permits: a wait for many would never end otherwise.
local function serve_waiting(semaphore)
  local first = semaphore.first
  while first and first.value <= semaphore.free do
    semaphore.free = semaphore.free - first.value
    serve(first)
    first = semaphore.first
  end
end

local function leave_semaphore(semaphore, woken, ...)
  -- The wait that has ended may have been the longest: the next ones may want fewer permits.
  if not woken then serve_waiting(semaphore) end
  if woken == nil then error((...), 0) end
  return woken
end

local function acquire(self, count, timeout)
  if count <= self.free and not self.first then
    self.free = self.free - count
    return true
  end
  if timeout and timeout <= 0 then return false end
  local entry = enlist(self, count)
  local woken, stopped = core.park(entry.wait, 'semaphore', timeout, self)
  if not entry.list then
    recycle(entry)
    return true
  end
  delist(entry)
  return leave_semaphore(self, woken, stopped)
end

-- `passed_on`: a permit that is not taken by `with` may be released by any fiber.

--- Takes `count` permits (1 by default): waits until they are free. Returns true, or false after `timeout` seconds.
function Semaphore:acquire(count, timeout)
  if count == nil then count = 1 else check_permits('semaphore:acquire', count) end
  if timeout ~= nil then check_seconds('semaphore:acquire', timeout) end
  self.passed_on = true
  return acquire(self, count, timeout)
end

--- Returns `count` permits (1 by default). They may be more than were taken.
function Semaphore:release(count)
  if count == nil then count = 1 else check_permits('semaphore:release', count) end
  self.passed_on = true
  self.free = self.free + count
  serve_waiting(self)
end

local function end_permit(semaphore, ok, ...)
  semaphore.free = semaphore.free + 1
  serve_waiting(semaphore)
  if not ok then error((...), 0) end
  return ...
end

--- Runs `fn(...)` with one permit, and returns its results. The permit is released after an error, too.
function Semaphore:with(fn, ...)
  check_function('semaphore:with', fn)
  acquire(self, 1)
  return end_permit(self, xpcall(fn, wrap, ...))
end

--- The number of permits that fibers in `with` have, or nil if other fibers may release some. For reports, which find
--- these fibers by their calls of `Semaphore.with`.
function internal.permits_in_with(semaphore)
  return not semaphore.passed_on and semaphore.count - semaphore.free or nil
end
internal.semaphore_with = Semaphore.with

--- The number of free permits.
function Semaphore:available()
  return self.free
end

function Semaphore:__tostring()
  return ('semaphore (%d free)'):format(self.free)
end

--- Creates a semaphore with `count` free permits.
function yue.semaphore(count)
  if count ~= 0 then check_permits('yue.semaphore', count) end
  return setmetatable({ free = count, count = count, passed_on = false, first = nil, last = nil }, Semaphore)
end

-- -- Events --------------------------------------------------------------------------------------------------------

local Event = new_class 'event'

--- Sets the event: wakes all fibers that wait for it, and later waits return at once.
function Event:set()
  self.on = true
  local entry = self.first
  self.first, self.last = nil, nil
  while entry do
    entry.list = nil
    core.wake(entry.wait)
    entry = entry.after
  end
end

--- Clears the event: later waits wait again.
function Event:reset()
  self.on = false
end

--- Waits until the event is set: returns true, or false after `timeout` seconds.
function Event:wait(timeout)
  if timeout ~= nil then check_seconds('event:wait', timeout) end
  if self.on then return true end
  if timeout and timeout <= 0 then return false end
  return await_once(enlist(self), timeout, 'set', self)
end

--- Whether the event is set.
function Event:is_set()
  return self.on
end

function Event:__tostring()
  return self.on and 'event (set)' or 'event'
end

--- Creates an event, which is not set.
function yue.event()
  return setmetatable({ on = false, first = nil, last = nil }, Event)
end
