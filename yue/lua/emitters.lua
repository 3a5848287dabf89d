-- Emitters, and those made of time and signals: timers, signals.
--
-- A callback runs in a fiber of its own and may block. Its error goes to the fiber that bound it, if that waits in
-- `yue.try` or `yue.client`, else to the log.
local core, yue, internal = ...
local setmetatable, type, xpcall, select = setmetatable, type, xpcall, select
local wrap = internal.wrap

local Emitter = {}
Emitter.__index = Emitter
internal.Emitter = Emitter

--- Makes `object` (a table) an emitter of the class.
function internal.new_emitter(class, object)
  object = object or {}
  object.bindings = {}
  return setmetatable(object, class or Emitter)
end

local function each_event(events, f)
  if type(events) == 'table' then
    for i = 1, #events do f(events[i]) end
  elseif events ~= nil then
    f(events)
  else
    internal.argument_error('an event name, or a list of them, is needed')
  end
end

--- Calls `fn(...)` with each `emit` of the event (or of each of a list of events). Returns `fn`, for `unbind`.
function Emitter:bind(events, fn)
  if type(fn) ~= 'function' then internal.argument_error('bind takes an event, or a list of events, and a function') end
  local owner = internal.current()
  each_event(events, function(event)
    local list = self.bindings[event] or {}
    self.bindings[event] = list
    list[#list + 1] = { fn = fn, owner = owner }
  end)
  return fn
end

--- Undoes `bind`; without `fn` for all functions bound to the event.
function Emitter:unbind(events, fn)
  each_event(events, function(event)
    local kept = {}
    for _, binding in ipairs(self.bindings[event] or {}) do
      if fn and binding.fn ~= fn then kept[#kept + 1] = binding end
    end
    self.bindings[event] = kept
  end)
end

local function run_binding(binding, ...)
  local ok, e = xpcall(binding.fn, wrap, ...)
  if not ok and not internal.deliver(binding.owner, e) then
    yue.log.error('callback: ' .. internal.report(e))
  end
end
internal.run_binding = run_binding

local function wake_waiting(self, event, ...)
  local waiting = self.waiting and self.waiting[event]
  if not waiting then return end
  self.waiting[event] = nil
  for i = 1, #waiting do
    local entry = waiting[i]
    entry.count = select('#', ...)
    entry.payload = { ... }
    core.wake(entry.wait)
  end
end

--- Tells everybody who bound the event or waits for it. Returns before the callbacks have run.
function Emitter:emit(event, ...)
  wake_waiting(self, event, ...)
  local list = self.bindings[event]
  if not list then return end
  for i = 1, #list do internal.start(run_binding, list[i], ...) end
end

--- As `emit`, but runs the callbacks one after the other in the calling fiber.
function internal.emit_inline(self, event, ...)
  wake_waiting(self, event, ...)
  local list = self.bindings[event]
  if not list then return end
  for i = 1, #list do run_binding(list[i], ...) end
end

--- Waits for the event: `true, payload…`, or `false` when `timeout` (seconds) is over or the emitter was closed.
function Emitter:wait(event, timeout)
  if self.closed then return false end
  local entry = { wait = core.prepare() }
  self.waiting = self.waiting or {}
  local waiting = self.waiting[event] or {}
  self.waiting[event] = waiting
  waiting[#waiting + 1] = entry
  core.park(entry.wait, 'event', timeout)
  if entry.payload then return true, unpack(entry.payload, 1, entry.count) end
  for i = #waiting, 1, -1 do
    if waiting[i] == entry then table.remove(waiting, i) end
  end
  return false
end

--- No more events: callbacks are forgotten, who waits gets `false`.
function Emitter:close()
  if self.closed then return end
  self.closed = true
  self.bindings = {}
  local waiting = self.waiting
  self.waiting = nil
  for _, list in pairs(waiting or {}) do
    for i = 1, #list do core.wake(list[i].wait) end
  end
  if self.on_close then self:on_close() end
end

--- An emitter of the program's own.
function yue.emitter()
  return internal.new_emitter()
end

-- -- Timers --------------------------------------------------------------------------------------------------------

local Timer = setmetatable({}, { __index = Emitter })
Timer.__index = Timer

local function run_timer(timer, start, interval)
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
  if not self.in_callback then self.fiber:cancel() end
end

--- Ticks after `start` seconds and then every `interval` seconds (once, without `interval`). Ticks do not drift; a tick
--- whose callback is still busy with an earlier one is left out.
function yue.timer(start, interval)
  if type(start) ~= 'number' or start < 0 then
    internal.argument_error('yue.timer takes seconds until the first tick')
  end
  if interval ~= nil and (type(interval) ~= 'number' or interval <= 0) then
    internal.argument_error('the interval of a timer is a number of seconds above 0')
  end
  local timer = internal.new_emitter(Timer)
  timer.fiber = yue.fiber(run_timer, 'timer')
  timer.fiber.quiet = true
  timer.fiber:run(timer, start, interval)
  internal.adopt_current(timer)
  return timer
end

-- -- Signals -------------------------------------------------------------------------------------------------------

local Signal = setmetatable({}, { __index = Emitter })
Signal.__index = Signal

yue.const = core.signals

local function run_signal(signal)
  while not signal.closed do
    if core.signal_wait(signal.subscription) then signal:emit('signal', signal.number) end
  end
end

function Signal:on_close()
  core.signal_close(self.subscription)
  self.fiber:cancel()
end

--- Emits `signal` (with its number) each time the process gets the signal, whose default action is off meanwhile.
function yue.signal(number)
  if type(number) ~= 'number' then internal.argument_error('yue.signal takes a number, such as yue.const.SIGUSR1') end
  local signal = internal.new_emitter(Signal, { number = number, subscription = core.signal_open(number) })
  signal.fiber = yue.fiber(run_signal, 'signal')
  signal.fiber.quiet = true
  signal.fiber:run(signal)
  internal.adopt_current(signal)
  return signal
end
