-- Fibers and futures.
--
-- A future is a place for the results of something that goes on. A fiber started by a program has one: it completes
-- when the fiber's function returns or raises. Futures know nothing of fibers but the waits that they end.
local core, yue, internal = ...
local setmetatable, type, select, unpack, xpcall, error = setmetatable, type, select, unpack, xpcall, error
local wrap = internal.wrap

-- -- Futures -------------------------------------------------------------------------------------------------------

local Future = {}
Future.__index = Future

local function new_future()
  return setmetatable({ finished = false }, Future)
end

local unseen = setmetatable({}, { __mode = 'k' }) -- futures that failed and that nobody has asked yet

local UNSEEN = 'a fiber failed and nobody asked for its result: '

local function note_unseen(future)
  local sentinel = newproxy(true)
  local text = internal.report(future[1])
  getmetatable(sentinel).__gc = function() core.tell_later(UNSEEN .. text) end
  future.sentinel = sentinel
  unseen[future] = text
end

local function seen(future)
  if future.sentinel then
    getmetatable(future.sentinel).__gc = nil
    future.sentinel, unseen[future] = nil, nil
  end
end

--- At the end of a program: what failed unseen is told.
function internal.tell_unseen()
  for future, text in pairs(unseen) do
    seen(future)
    core.log('warn', UNSEEN .. text)
  end
end

local function complete(future, ok, ...)
  if future.finished then return false end
  future.finished, future.ok = true, ok
  future.count = select('#', ...)
  for i = 1, future.count do future[i] = (select(i, ...)) end
  local waits = future.waits
  future.waits, future.canceller = nil, nil
  if waits then
    for i = 1, #waits do core.wake(waits[i]) end
  end
  if not ok and not waits and not future.observed and not future.quiet then note_unseen(future) end
  return true
end

local function await(self)
  while not self.finished do
    local wait = core.prepare()
    self.waits = self.waits or {}
    self.waits[#self.waits + 1] = wait
    core.park(wait, 'future')
  end
  seen(self)
end

local function run_callback(future, fn)
  local function call() fn(future:sync()) end
  local fine, e = xpcall(call, wrap)
  if not fine then yue.log.error('callback of a future: ' .. internal.report(e)) end
end

--- Calls `fn(ok, ...)` when the future is done, in a fiber of its own, which inherits what this one works for.
function Future:on(fn)
  if type(fn) ~= 'function' then internal.argument_error('future:on takes a function(ok, ...)') end
  seen(self)
  self.observed = true
  internal.start(run_callback, self, fn)
  return self
end

--- Waits until it is done: `true, results…` or `false, error`.
function Future:sync()
  if not self.finished then await(self) end
  if self.sentinel then seen(self) end
  return self.ok, unpack(self, 1, self.count)
end

--- Waits until it is done: the results, or raises its error.
function Future:get()
  if not self.finished then await(self) end
  if self.sentinel then seen(self) end
  if not self.ok then error(self[1], 0) end
  return unpack(self, 1, self.count)
end

--- Whether it is done.
function Future:done()
  return self.finished
end

--- Gives it up: what works for it is cancelled, and it is done with a CancelledError. Returns whether it was not done.
function Future:cancel()
  if self.finished then return false end
  local canceller = self.canceller
  self.quiet = true
  if canceller then
    self.canceller = nil
    canceller(self)
  end
  complete(self, false, yue.errors.CancelledError.new('the future was cancelled'))
  return true
end

function Future:__tostring()
  return 'future: ' .. (not self.finished and 'pending' or self.ok and 'done' or 'failed')
end

internal.Future, internal.new_future, internal.complete = Future, new_future, complete

local function check_futures(name, list)
  if type(list) ~= 'table' then internal.argument_error(name .. ' takes a list of futures') end
  for i = 1, #list do
    local item = list[i]
    if type(item) ~= 'table' or type(item.sync) ~= 'function' then
      internal.argument_error(('%s: item %d is no future'):format(name, i))
    end
  end
end

--- Waits for all; a list of the first result of each. Raises the error of the first in the list that failed.
function yue.all(list)
  check_futures('yue.all', list)
  local results, failure = {}, nil
  for i = 1, #list do
    local ok, result = list[i]:sync()
    if not ok then failure = failure or result end
    results[i] = result
  end
  if failure then error(failure, 0) end
  return results
end

--- Waits for the first that is done; returns its place in the list and its results, or raises its error.
function yue.any(list)
  check_futures('yue.any', list)
  if #list == 0 then internal.argument_error('yue.any needs at least one future') end
  while true do
    for i = 1, #list do
      if list[i]:done() then return i, list[i]:get() end
    end
    local wait = core.prepare()
    for i = 1, #list do
      local future = list[i].future or list[i]
      future.waits = future.waits or {}
      future.waits[#future.waits + 1] = wait
    end
    core.park(wait, 'any future')
  end
end

-- -- Fibers --------------------------------------------------------------------------------------------------------

local Fiber = setmetatable({}, { __index = Future })
Fiber.__index = Fiber
Fiber.__tostring = function(self)
  local state = self.finished and 'over' or self.id and 'running' or 'not started'
  return ('fiber: %s (%s)'):format(self.name or 'unnamed', state)
end

local running = {} -- fibers started by programs, by the number of the native fiber
local others = setmetatable({}, { __mode = 'v' }) -- records of the rest: the main fiber, handlers of requests

--- The record of the calling fiber.
local function current()
  local id = core.current()
  local record = running[id] or others[id]
  if not record then
    record = setmetatable({ id = id, name = core.fiber_name(), finished = false }, Fiber)
    others[id] = record
  end
  return record
end
internal.current = current

local function body(fiber, fn, ...)
  local id = fiber.id
  complete(fiber, xpcall(fn, wrap, ...))
  running[id] = nil
end

local function cancel_native(fiber)
  core.cancel(fiber.id)
end

local function start(fiber, fn, ...)
  local parent = running[core.current()] or others[core.current()]
  fiber.scope = parent and parent.scope
  local id = core.spawn(fiber.name, body, fiber, fn, ...)
  fiber.id = id
  fiber.canceller = cancel_native
  running[id] = fiber
  if fiber.scope then internal.adopt(fiber.scope, fiber) end
  return fiber
end

--- A helper fiber that has no future and holds no program.
function internal.start(fn, ...)
  return core.spawn_helper(fn, ...)
end

function Fiber:run(...)
  if self.id then error(yue.errors.RuntimeError.new('the fiber has been started already'), 0) end
  return start(self, self.fn, ...)
end

--- Starts `fn(...)` in a new fiber and returns it: a future of its results.
function yue.spawn(fn, ...)
  if type(fn) ~= 'function' then internal.argument_error('yue.spawn takes a function and its arguments') end
  return start(setmetatable({ finished = false }, Fiber), fn, ...)
end

local fiber_api = {}

--- The calling fiber.
function fiber_api.current()
  return current()
end

--- The fibers that the program started and that are not over: `{fiber, name, id}` each.
function fiber_api.list()
  local list = {}
  for id, fiber in pairs(running) do
    list[#list + 1] = { fiber = fiber, id = id, name = fiber.name }
  end
  table.sort(list, function(a, b) return a.id < b.id end)
  return list
end

--- `yue.fiber(fn [, name])`: a fiber that will run `fn`; `:run(...)` starts it and returns it. It is the future of its
--- own results.
local function fiber_new(_, fn, name)
  if type(fn) ~= 'function' then internal.argument_error('yue.fiber takes a function') end
  return setmetatable({ finished = false, fn = fn, name = name }, Fiber)
end

yue.fiber = setmetatable(fiber_api, { __call = fiber_new })

--- Runs `fn(...)`; blocking calls in it fail with a TimeoutError once the time is over.
function yue.timeout(seconds, fn, ...)
  if type(seconds) ~= 'number' or type(fn) ~= 'function' then
    internal.argument_error('yue.timeout takes seconds, a function and its arguments')
  end
  return core.with_deadline(seconds, fn, ...)
end

--- Runs `fn(...)` untouched by cancels and deadlines: clean-up that must wait.
function yue.shield(fn, ...)
  if type(fn) ~= 'function' then internal.argument_error('yue.shield takes a function and its arguments') end
  return core.shield(fn, ...)
end

yue.sleep = core.sleep
yue.yield = core.yield
yue.util = { time = { now = core.now_us, suspend = core.sleep } }

-- -- Errors of callbacks that reach the fiber which bound them -------------------------------------------------------

local function leave_guard(fiber, guard, ok, ...)
  fiber.guard = guard.outer
  if guard.error ~= nil then return false, guard.error end
  return ok, ...
end

--- `ok, results…` of `fn(...)`; while it runs, an error can be delivered to it from elsewhere.
function internal.guarded(fn, ...)
  local fiber = current()
  local guard = { outer = fiber.guard, scope = core.new_scope(), fiber = fiber }
  fiber.guard = guard
  return leave_guard(fiber, guard, xpcall(core.in_scope, wrap, guard.scope, fn, ...))
end

--- Delivers an error to a fiber: true if it waits in `yue.try` or `yue.client`.
function internal.deliver(fiber, e)
  local guard = fiber and fiber.guard
  if not guard or guard.error ~= nil then return false end
  guard.error = e
  core.cancel_scope(guard.scope)
  return true
end
