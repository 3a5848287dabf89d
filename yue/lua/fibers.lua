-- Fibers and futures.
--
-- A future holds the results of work in progress. A fiber started by a program has one: it completes when the fiber's
-- function returns or raises. Futures know nothing of fibers except the waits that they end.
local core, yue, internal = ...
local setmetatable, getmetatable, type, select = setmetatable, getmetatable, type, select
local unpack, xpcall, pcall, error = unpack, xpcall, pcall, error
local wrap, is_callable = internal.wrap, internal.is_callable

-- -- Waiting -------------------------------------------------------------------------------------------------------
--
-- A wait for a future or an event is an entry in a doubly linked list, so that a fiber which stops waiting (a timeout,
-- a cancel, another future that was faster) removes its entry at once, at any position.

--- Adds an entry for the wait to the list, which is any table with the fields `first` and `last`.
function internal.enlist(list, wait)
  local entry = { wait = wait, list = list, before = list.last }
  if list.last then list.last.after = entry else list.first = entry end
  list.last = entry
  return entry
end

--- Removes an entry from its list; does nothing if it is in none.
function internal.delist(entry)
  local list, before, after = entry.list, entry.before, entry.after
  if not list then return end
  if before then before.after = after else list.first = after end
  if after then after.before = before else list.last = before end
  entry.list = nil
end

--- Ends the waits of a list, in the order of their arrival. If an entry has the field `done`, that is called as
--- `done(entry, ...)`, and decides about the wait itself.
function internal.wake_all(list, ...)
  local entry = list.first
  list.first, list.last = nil, nil
  while entry do
    entry.list = nil
    if entry.done then entry:done(...) else core.wake(entry.wait) end
    entry = entry.after
  end
end

local enlist, delist, wake_all = internal.enlist, internal.delist, internal.wake_all

--- Parks for the prepared wait: returns whether it was woken (false: the time has passed). An error that stops the
--- fiber is raised after `undo(...)`. `what` names the awaited thing in reports.
local function park(wait, why, limit, what, undo, ...)
  local woken, stopped = core.park(wait, why, limit, what)
  if woken == nil then
    if undo then undo(...) end
    error(stopped, 0)
  end
  return woken
end
internal.park = park

-- -- Futures -------------------------------------------------------------------------------------------------------

-- A table that gets its fields one by one is rebuilt at each power of two. So futures and fibers have from the
-- beginning the fields that they get later. For fields that most never get, their class has a value, where the search
-- for the field ends: that saves a third of the time of a spawn and its join.

local Future = { cancelled = false, quiet = false, sentinel = false, unread = false }
Future.__index = Future

local function new_future(what)
  return setmetatable({
    nil, -- room for a result
    finished = false, ok = false, count = 0, first = false, last = false, observed = false, what = what,
    call = false, canceller = false, keep = false,
  }, Future)
end

local unseen = setmetatable({}, { __mode = 'k' }) -- futures that failed and whose result nobody has read yet
local is_simulated = core.is_simulated() -- a run's report has the failures that nobody has read
local unseen_noted = 0 -- the number of those that there ever were
local ending = false -- from now on failures are due to the program's end

local function unseen_text(future)
  return (future.what or 'a fiber') .. ' failed and nobody asked for its result: ' .. internal.report(future[1])
end

local function note_unseen(future)
  local sentinel = newproxy(true)
  local text = unseen_text(future)
  getmetatable(sentinel).__gc = function() core.warn_later(text) end
  future.sentinel = sentinel
  unseen[future] = text
  if is_simulated then future.unread = core.note_unread(text) end
  unseen_noted = unseen_noted + 1
end

--- The number of failures so far that nobody had read when they happened; and whether there are such futures now.
function internal.count_unseen()
  return unseen_noted, next(unseen) ~= nil
end

local function seen(future)
  if future.sentinel then
    if future.unread then core.forget_unread(future.unread) end
    getmetatable(future.sentinel).__gc = nil
    future.sentinel, unseen[future] = nil, nil
  end
end

--- Returns the error of a future that has failed, if nobody has read it, and counts it as read.
function internal.take_unseen(future)
  if not future.sentinel then return nil end
  seen(future)
  return future[1]
end

--- Logs unseen failures at the end of a program. Later failures are caused by the end.
function internal.log_unseen()
  ending = true
  for future, text in pairs(unseen) do
    -- A line of the log is not read by a program.
    future.unread = nil
    seen(future)
    core.warn_later(text)
  end
end

local function complete(future, ok, ...)
  if future.finished then return false end
  local count, waited = select('#', ...), future.first
  future.finished, future.ok, future.count = true, ok, count
  future[1] = ...
  for i = 2, count do future[i] = (select(i, ...)) end
  if future.canceller then future.canceller = false end
  if future.keep then future.keep = false end
  if not ok then
    if not internal.is_error(future[1]) then future[1] = wrap(future[1]) end
    -- A fiber that was cancelled and ends because of that has not failed.
    -- At a program's end fibers are cancelled without a request by the program.
    local quiet = future.quiet or internal.is_exit(future[1])
      or (future[1].type == 'CancelledError' and (future.cancelled or core.shutting_down()))
    if not waited and not future.observed and not quiet and not ending then
      note_unseen(future)
      if future.scope then internal.fiber_failed(future.scope, future) end
    end
  end
  if waited then wake_all(future) end
  return true
end

local function await(self)
  self.observed = true
  while not self.finished do
    local entry = enlist(self, core.prepare())
    park(entry.wait, 'future', nil, self, delist, entry)
  end
  seen(self)
end

local function callback_name(future)
  return 'the callback of ' .. (future.what or 'a fiber')
end

-- The function comes first: reports find it there after a tail call has removed its own frame.
local function run_callback(fn, future, owner)
  local function call() return fn(future:sync()) end
  internal.end_callback(owner, callback_name, future, xpcall(call, wrap))
end

--- Calls `fn(ok, ...)` when the future is done, in a new fiber, which inherits the work of the calling one. Its error
--- goes to the fiber that called `on`, if that waits in `yue.try` or `yue.client`, else to the log.
function Future:on(fn)
  if not is_callable(fn) then internal.argument_error('future:on takes a function(ok, ...)') end
  seen(self)
  self.observed = true
  internal.start(run_callback, fn, self, internal.current())
  return self
end

--- Waits until the future is done: returns `true, results…` or `false, error`.
function Future:sync()
  if not self.finished then await(self) end
  if self.sentinel then seen(self) end
  return self.ok, unpack(self, 1, self.count)
end

--- Waits until the future is done: returns the results, or raises its error.
function Future:get()
  if not self.finished then await(self) end
  if self.sentinel then seen(self) end
  if not self.ok then error(self[1], 0) end
  return unpack(self, 1, self.count)
end

--- Whether the future is done.
function Future:done()
  return self.finished
end

--- Gives the future up: a call is done at once, with a CancelledError. Returns whether it was not done.
function Future:cancel()
  if self.finished then return false end
  self.cancelled = true
  local canceller = self.canceller
  self.canceller = false
  if canceller then canceller(self) end
  complete(self, false, yue.errors.CancelledError.new('the future was cancelled'))
  return true
end

function Future:__tostring()
  return 'future: ' .. (not self.finished and 'pending' or self.ok and 'done' or 'failed')
end

internal.Future, internal.new_future, internal.complete = Future, new_future, complete

local Fiber = setmetatable({
  canceller = false, keep = false, cancelled = false, quiet = false, sentinel = false, storage = false,
}, { __index = Future })

--- The record of a fiber that will run `fn`, which may be nil if the fiber is started at once.
local function new_fiber(name, fn)
  local record = setmetatable({
    nil, -- room for a result
    finished = false, ok = false, count = 0, first = false, last = false, observed = false, id = false,
  }, Fiber)
  if name then record.name = name end
  if fn then record.fn = fn end
  return record
end

local function check_futures(name, list)
  if type(list) ~= 'table' or getmetatable(list) == Future or getmetatable(list) == Fiber then
    internal.argument_error(name .. ' takes a list of futures: ' .. name .. '{ first, second }')
  end
  for i = 1, #list do
    local meta = getmetatable(list[i])
    if meta ~= Future and meta ~= Fiber then
      internal.argument_error(('%s: item %d is not a future'):format(name, i))
    end
  end
end

--- Waits until `done`, called with each completed future of the list, returns true. None fails unseen from now on.
local function await_some(list, done)
  local wait, entries = core.prepare(), {}
  for i = 1, #list do
    local future = list[i]
    if not future.finished then
      local entry = enlist(future, wait)
      entry.done = function()
        if done(future) then core.wake(wait) end
      end
      entries[#entries + 1] = entry
    end
  end
  local function leave()
    for i = 1, #entries do delist(entries[i]) end
  end
  park(wait, 'any future', nil, list, leave)
  leave()
end

local function observe(list)
  for i = 1, #list do
    seen(list[i])
    list[i].observed = true
  end
end

--- Waits for all; returns a list of the first result of each. Raises the error of the first that fails, at once.
function yue.all(list)
  check_futures('yue.all', list)
  observe(list)
  local results, pending, failed = {}, 0, nil
  for i = 1, #list do
    if not list[i].finished then
      pending = pending + 1
    elseif not list[i].ok then
      failed = failed or list[i]
    end
  end
  while pending > 0 and not failed do
    await_some(list, function(future)
      pending = pending - 1
      if not future.ok then failed = failed or future end
      return pending == 0 or failed
    end)
  end
  if failed then error(failed[1], 0) end
  for i = 1, #list do results[i] = list[i][1] end
  return results
end

--- Waits for the first that is done; returns its index in the list and its results, or raises its error.
function yue.any(list)
  check_futures('yue.any', list)
  if #list == 0 then internal.argument_error('yue.any needs at least one future') end
  observe(list)
  while true do
    for i = 1, #list do
      if list[i].finished then return i, list[i]:get() end
    end
    await_some(list, function() return true end)
  end
end

-- -- Fibers --------------------------------------------------------------------------------------------------------

Fiber.__index = Fiber
Fiber.__tostring = function(self)
  local state = self.finished and 'ended' or self.id and 'running' or 'not started'
  return ('fiber: %s (%s)'):format(self.name or 'unnamed', state)
end

-- Fibers started by programs, by the native fiber's index among those of its loop: the lower 24 bits of its number.
-- Indexes are reused, so the table keeps its size while fibers come and go.
local running = {}
local functions = {} -- the functions they run, by the same indexes: for reports, since a tail call leaves no frame
local SLOTS = 2 ^ 24

-- Records of the rest: the main fiber, helpers, handlers of requests. The native fiber of a handler continues with the
-- next request; the record ends before that (`internal.end_record`).
local others = setmetatable({}, { __mode = 'v' })

-- The version of the program's modules that each fiber keeps, by its number: empty unless modules were reloaded. See
-- `reload.lua`.
local pinned = {}
internal.pinned = pinned

--- The record of the native fiber with this number, if it has one. There is no number outside fibers.
local function record_of(id)
  if not id then return nil end
  local record = running[id % SLOTS]
  if record and record.id == id then return record end
  return others[id]
end

--- The record of the calling fiber. A finalizer may run outside fibers, and gets a record that nobody else has.
local function current()
  local id = core.current()
  if not id then return new_fiber('finalizer') end
  local record = record_of(id)
  if not record then
    record = new_fiber(core.fiber_name())
    record.id, record.quiet = id, true
    others[id] = record
    core.note_record()
  end
  return record
end
internal.current = current

--- The function that the program runs in the native fiber with this number; nil for a fiber of yue itself (a timer's).
function internal.function_of(id)
  local record = running[id % SLOTS]
  return record and record.id == id and not record.quiet and functions[id % SLOTS] or nil
end

--- Calls `f` with the number of each fiber that the program has started and that has not ended.
function internal.each_running(f)
  for _, fiber in pairs(running) do
    if fiber.id and not fiber.quiet then f(fiber.id) end
  end
end

--- The name of the native fiber with this number, for people.
function internal.name_of(id)
  local record = record_of(id)
  local name = record and record.name or core.work_of(id)
  return name and name ~= '' and name or 'unnamed'
end

-- By number: helpers of yue itself, which live on and call nothing of the program.
local helpers = {}

--- Records whether the calling fiber is such a helper.
function internal.mark_helper(is_helper)
  helpers[core.current()] = is_helper or nil
end

--- Whether the fiber with this number is yue's own and in no call of the program. The record of one that calls it again
--- and again (a timer's) has the field `own`: `waits`, or `works` during a call.
function internal.waits_for_work(id)
  if helpers[id] then return true end
  local record = record_of(id)
  return record ~= nil and record.own == 'waits'
end

--- A fiber of yue calls the program: that is new work, which begins in the present version. Returns what `end_call`
--- takes.
function internal.begin_call()
  local id = core.current()
  if pinned[id] then internal.unpin(id) end
  local record = record_of(id)
  if not (record and record.own) then return nil end
  record.own = 'works'
  return record
end

function internal.end_call(record)
  if record then record.own = 'waits' end
end

--- Ends the record of completed work, though its native fiber may continue.
function internal.end_record(id, ok, ...)
  if pinned[id] then internal.unpin(id) end
  local record = others[id]
  others[id] = nil
  if record then complete(record, ok, ...) end
end

-- The function comes first: reports find it there after a tail call has removed its own frame.
local function body(fn, fiber, ...)
  complete(fiber, xpcall(fn, wrap, ...))
  local slot = fiber.id % SLOTS
  running[slot], functions[slot] = nil, nil
end

local function start(fiber, fn, ...)
  local parent_id = core.current()
  local parent = record_of(parent_id)
  local scope = parent and parent.scope
  if parent and parent.storage then
    local storage = {}
    for key, value in pairs(parent.storage) do storage[key] = value end
    fiber.storage = storage
  end
  local id = core.spawn(fiber.name, body, fn, fiber, ...)
  fiber.id = id
  running[id % SLOTS], functions[id % SLOTS] = fiber, fn
  if parent_id and pinned[parent_id] then internal.inherit_pin(parent_id, id) end
  if scope then
    fiber.scope = scope
    internal.adopt(scope, fiber)
  end
  return fiber
end

local function helper(scope, fn, ...)
  local fiber = current()
  fiber.scope = scope
  if scope then internal.adopt(scope, fiber) end
  internal.end_record(fiber.id, pcall(fn, ...))
end

--- Starts a fiber that is not started by the program itself (callbacks). It belongs to the client `scope`, if given, or
--- else to that of the calling fiber.
function internal.start_in(scope, fn, ...)
  if scope then return core.spawn_helper(helper, scope, fn, ...) end
  return core.spawn_helper(fn, ...)
end

function internal.start(fn, ...)
  local parent_id = core.current()
  local parent = record_of(parent_id)
  local id = internal.start_in(parent and parent.scope, fn, ...)
  if parent_id and pinned[parent_id] then internal.inherit_pin(parent_id, id) end
  return id
end

--- Cancels the fiber: its current wait raises a CancelledError. It is done when it has ended, with the values that it
--- returned or raised; a fiber that was never started is done at once. Returns whether it was not done.
function Fiber:cancel()
  if self.finished then return false end
  self.cancelled = true
  if self.id then
    core.cancel(self.id)
  else
    complete(self, false, yue.errors.CancelledError.new('the fiber was cancelled before it was started'))
  end
  return true
end

function Fiber:run(...)
  if self.id then error(yue.errors.RuntimeError.new('the fiber has been started already'), 0) end
  if self.finished then error(self[1], 0) end
  return start(self, self.fn, ...)
end

--- Starts `fn(...)` in a new fiber and returns the fiber: a future of its results.
function yue.spawn(fn, ...)
  if not is_callable(fn) then internal.argument_error('yue.spawn takes a function and its arguments') end
  return start(new_fiber(), fn, ...)
end

local fiber_api = {}

--- The calling fiber.
function fiber_api.current()
  return current()
end

--- The table of the calling fiber, for values of its own. A fiber that it starts begins with a copy.
function fiber_api.storage()
  local fiber = current()
  local storage = fiber.storage
  if not storage then
    storage = {}
    fiber.storage = storage
  end
  return storage
end

--- The fibers that the program started and that have not ended: `{fiber, name, id}` each.
function fiber_api.list()
  local list = {}
  for _, fiber in pairs(running) do
    list[#list + 1] = { fiber = fiber, id = fiber.id, name = fiber.name }
  end
  table.sort(list, function(a, b) return a.id < b.id end)
  return list
end

--- `yue.fiber(fn [, name])`: creates a fiber that will run `fn`; `:run(...)` starts it and returns it. It is the future
--- of its own results.
local function fiber_new(_, fn, name)
  if not is_callable(fn) then internal.argument_error('yue.fiber takes a function, and a name if you like') end
  if name ~= nil and type(name) ~= 'string' then internal.argument_error('the name of a fiber is a string') end
  return new_fiber(name, fn)
end

yue.fiber = setmetatable(fiber_api, { __call = fiber_new })
core.name_class(Future)
core.name_class(Fiber)

-- -- Time ----------------------------------------------------------------------------------------------------------

--- Raises unless `seconds` is a number that can be waited for.
local function check_seconds(name, seconds)
  if type(seconds) ~= 'number' or seconds ~= seconds then
    internal.argument_error(('%s takes seconds, as a number, not %s'):format(name, internal.describe_value(seconds)))
  end
end
internal.check_seconds = check_seconds

--- Runs `fn(...)`; blocking calls in it fail with a TimeoutError once the time has passed.
function yue.timeout(seconds, fn, ...)
  check_seconds('yue.timeout', seconds)
  if not is_callable(fn) then internal.argument_error('yue.timeout takes seconds, a function and its arguments') end
  return core.with_deadline(seconds, fn, ...)
end

--- Runs `fn(...)` shielded from cancels and deadlines: for clean-up that must wait.
function yue.shield(fn, ...)
  if not is_callable(fn) then internal.argument_error('yue.shield takes a function and its arguments') end
  return core.shield(fn, ...)
end

--- Waits for `seconds`; the other fibers run. A number that is not above 0 lets each ready fiber run once.
function yue.sleep(seconds)
  if type(seconds) ~= 'number' or seconds ~= seconds then check_seconds('yue.sleep', seconds) end
  return core.sleep(seconds)
end

--- Lets each ready fiber run once.
function yue.yield()
  return core.yield()
end

--- Seconds on the clock of all waits: it never jumps, and begins at an arbitrary moment.
yue.now = core.clock

--- Seconds since 1970, by the system's clock, which may be set.
function yue.time()
  return core.now_us() / 1e6
end

yue.util = { time = { now = core.now_us, suspend = yue.sleep } }

-- -- Errors of callbacks that reach the fiber which bound them -------------------------------------------------------

local function leave_guard(fiber, guard, ok, ...)
  fiber.guard = guard.outer
  if guard.error ~= nil then return false, guard.error end
  return ok, ...
end

--- Returns `ok, results…` of `fn(...)`; while it runs, other fibers can deliver an error to it.
function internal.guarded(fn, ...)
  local fiber = current()
  local guard = { outer = fiber.guard, scope = core.new_scope(), fiber = fiber }
  fiber.guard = guard
  return leave_guard(fiber, guard, xpcall(core.in_scope, wrap, guard.scope, fn, ...))
end

-- The values that `exit` raises in its caller, so that no later code runs.
local exits = setmetatable({}, { __mode = 'k' })

--- Creates an error that ends the calling fiber and is not a failure.
function internal.new_exit(text)
  local e = yue.errors.CancelledError.new(text)
  exits[e] = true
  return e
end

function internal.is_exit(e)
  return exits[e] ~= nil
end

--- Handles the outcome of a callback: its error goes to the fiber `owner`, else to the log, with the callback's name,
--- which is `name_of(source)`.
function internal.end_callback(owner, name_of, source, ok, e)
  if ok or internal.is_exit(e) or internal.deliver(owner, e) then return end
  internal.log_failure('error', name_of(source) .. ' failed', e)
end

--- Delivers an error to a fiber: true if it waits in `yue.try` or `yue.client`.
function internal.deliver(fiber, e)
  local guard = fiber and fiber.guard
  if not guard or guard.error ~= nil then return false end
  guard.error = e
  core.cancel_scope(guard.scope)
  return true
end
