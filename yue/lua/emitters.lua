-- Emitters: the class, and the emitters of time and signals.
--
-- A callback runs in a new fiber and may block. Its error goes to the fiber that bound it, if that waits in `yue.try`
-- or `yue.client`, else to the log.
local core, yue, internal = ...
local setmetatable, type, xpcall, select, ipairs, unpack = setmetatable, type, xpcall, select, ipairs, unpack
local wrap = internal.wrap

local Emitter = {}
Emitter.__index = Emitter
internal.Emitter = Emitter
core.name_class(Emitter)

--- A class of emitters. `events` lists the events that they emit: other names are refused.
function internal.emitter_class(events)
  local class = setmetatable({ events = {} }, { __index = Emitter })
  class.__index = class
  for i = 1, #events do class.events[events[i]] = true end
  core.name_class(class)
  return class
end

--- Makes `object` (a table) an emitter of the class.
function internal.new_emitter(class, object)
  object = object or {}
  object._bindings = {}
  return setmetatable(object, class or Emitter)
end

local function check_event(event)
  if event == nil or event ~= event or type(event) == 'table' then
    internal.argument_error("an event is named by a string, such as 'tick', not " .. internal.describe_value(event))
  end
end

local function each_event(events, f)
  if type(events) == 'table' then
    for i = 1, #events do check_event(events[i]) end
    for i = 1, #events do f(events[i]) end
  else
    check_event(events)
    f(events)
  end
end

-- Emitters of a class with `events`, a set of names, have no others: a misspelt name would never be emitted.
local function check_known(self, event)
  local known = self.events
  if not known or known[event] then return end
  local names = {}
  for name in pairs(known) do names[#names + 1] = name end
  table.sort(names)
  internal.argument_error(('%s has no event %s; it has: %s'):format(
    tostring(self), internal.to_text(event), table.concat(names, ', ')))
end

--- Calls `fn(...)` with each `emit` of the event (or of each of a list of events). Returns `fn`, for `unbind`.
function Emitter:bind(events, fn)
  if not internal.is_callable(fn) then
    internal.argument_error('bind takes an event, or a list of events, and a function')
  end
  if self.closed then
    error(yue.errors.RuntimeError.new(tostring(self) .. ' is closed: there will be no event to bind'), 0)
  end
  local owner = internal.current()
  each_event(events, function(event) check_known(self, event) end)
  each_event(events, function(event)
    local list = self._bindings[event] or {}
    self._bindings[event] = list
    list[#list + 1] = { fn = fn, owner = owner, scope = owner.scope, emitter = self, event = event }
  end)
  return fn
end

--- Undoes `bind`; without `fn`, for all functions bound to the event.
function Emitter:unbind(events, fn)
  if fn ~= nil and not internal.is_callable(fn) then
    internal.argument_error('unbind takes an event and the function')
  end
  each_event(events, function(event) check_known(self, event) end)
  each_event(events, function(event)
    local kept = {}
    for _, binding in ipairs(self._bindings[event] or {}) do
      if fn and binding.fn ~= fn then kept[#kept + 1] = binding end
    end
    self._bindings[event] = #kept > 0 and kept or nil
  end)
end

local function callback_name(binding)
  return ("the callback for '%s' of %s"):format(internal.to_text(binding.event), tostring(binding.emitter))
end

-- The function comes first: reports find it there after a tail call has removed its own frame.
local function run_binding(fn, binding, ...)
  internal.end_callback(binding.owner, callback_name, binding, xpcall(fn, wrap, ...))
end

local function take_event(entry, event, ...)
  entry.count, entry.payload = select('#', ...), { ... }
  core.wake(entry.wait)
end

local function wake_waiting(self, event, ...)
  local waiting = self._waiting and self._waiting[event]
  if not waiting then return end
  self._waiting[event] = nil
  internal.wake_all(waiting, event, ...)
end

--- Notifies everyone who bound the event or waits for it. Returns before the callbacks have run.
function Emitter:emit(event, ...)
  check_event(event)
  check_known(self, event)
  wake_waiting(self, event, ...)
  local list = self._bindings[event]
  if not list then return end
  for i = 1, #list do internal.start_in(list[i].scope, run_binding, list[i].fn, list[i], ...) end
end

--- Like `emit`, but runs the callbacks one after the other in the calling fiber.
function internal.emit_inline(self, event, ...)
  wake_waiting(self, event, ...)
  local list = self._bindings[event]
  if not list then return end
  local record = internal.begin_call()
  for i = 1, #list do run_binding(list[i].fn, list[i], ...) end
  internal.end_call(record)
end

--- Waits for the event: `true, payload…`, or `false` after `timeout` (seconds) or when the emitter was closed.
function Emitter:wait(event, timeout)
  check_event(event)
  check_known(self, event)
  if timeout ~= nil then internal.check_seconds('wait', timeout) end
  if self.closed then return false end
  self._waiting = self._waiting or {}
  local waiting = self._waiting[event] or {}
  self._waiting[event] = waiting
  local entry = internal.enlist(waiting, core.prepare())
  entry.done, entry.emitter, entry.event = take_event, self, event
  internal.park(entry.wait, 'event', timeout, entry, internal.delist, entry)
  if entry.payload then return true, unpack(entry.payload, 1, entry.count) end
  internal.delist(entry)
  return false
end

--- Ends an emitter: callbacks are removed, waiting fibers get `false`.
function internal.end_emitter(self)
  self.closed = true
  self._bindings = {}
  if self.scope then self.scope.resources[self] = nil end
  local waiting = self._waiting
  self._waiting = nil
  for _, list in pairs(waiting or {}) do
    local entry = list.first
    while entry do
      core.wake(entry.wait)
      entry = entry.after
    end
  end
end

--- Closes the emitter: callbacks are removed, waiting fibers get `false`. A second close does no harm.
function Emitter:close()
  if self.closed then return end
  internal.end_emitter(self)
  if self.on_close then self:on_close() end
end

Emitter.__tostring = function(self) return self.closed and 'emitter (closed)' or 'emitter' end

--- Creates an emitter for the program.
function yue.emitter()
  return internal.new_emitter()
end

-- -- Timers --------------------------------------------------------------------------------------------------------

local Timer = internal.emitter_class { 'tick' }
Timer.__tostring = function(self) return self.closed and 'timer (closed)' or 'timer' end

-- The clock's resolution, and `at + interval` must exceed `at`.
local INTERVAL_MIN = 1e-6

local function run_timer(timer, start, interval)
  interval = interval and math.max(interval, INTERVAL_MIN)
  local at = core.clock() + start
  while not timer.closed do
    core.sleep_until(at)
    if timer.closed then break end
    timer.in_callback = true
    internal.emit_inline(timer, 'tick')
    timer.in_callback = false
    if not interval then break end
    at = at + interval
    local late = core.clock() - at
    if late > 0 then at = at + math.ceil(late / interval) * interval end
  end
  timer:close()
end

function Timer:on_close()
  -- A running callback is not interrupted; the loop above checks before the next tick.
  if not self.in_callback and internal.current() ~= self.fiber then self.fiber:cancel() end
end

--- Ticks after `start` seconds and then every `interval` seconds (once, without `interval`). Ticks do not drift; a tick
--- whose callback still runs is skipped.
function yue.timer(start, interval)
  if type(start) ~= 'number' or not (start >= 0) then
    internal.argument_error('yue.timer takes the seconds until the first tick, not ' .. internal.describe_value(start))
  end
  if interval ~= nil and (type(interval) ~= 'number' or not (interval > 0)) then
    internal.argument_error('the interval of a timer is a number of seconds above 0')
  end
  local timer = internal.new_emitter(Timer)
  timer.fiber = yue.fiber(run_timer, 'timer')
  timer.fiber.quiet, timer.fiber.own = true, 'waits'
  timer.fiber:run(timer, start, interval)
  internal.adopt_current(timer)
  return timer
end

-- -- Signals -------------------------------------------------------------------------------------------------------

local Signal = internal.emitter_class { 'signal' }
Signal.__tostring = function(self) return ('signal %d%s'):format(self.number, self.closed and ' (closed)' or '') end

yue.const = core.signals

-- The number of the program's own emitters of SIGHUP.
local hangups = 0

--- Whether the program handles SIGHUP itself.
function internal.handles_hangup()
  return hangups > 0
end

local function run_signal(signal)
  while not signal.closed do
    if core.signal_wait(signal.subscription) then signal:emit('signal', signal.number) end
  end
end

function Signal:on_close()
  core.signal_close(self.subscription)
  if self.number == yue.const.SIGHUP then hangups = hangups - 1 end
  self.fiber:cancel()
end

--- Emits `signal` (with its number) each time the process gets the signal, whose default action is disabled meanwhile.
function yue.signal(number)
  if type(number) ~= 'number' or number % 1 ~= 0 then
    internal.argument_error('yue.signal takes a number, such as yue.const.SIGUSR1')
  end
  local signal = internal.new_emitter(Signal, { number = number, subscription = core.signal_open(number) })
  if number == yue.const.SIGHUP then hangups = hangups + 1 end
  signal.fiber = yue.fiber(run_signal, 'signal')
  signal.fiber.quiet, signal.fiber.own = true, 'waits'
  signal.fiber:run(signal)
  internal.adopt_current(signal)
  return signal
end
