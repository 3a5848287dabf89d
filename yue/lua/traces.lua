-- Traces and call chains: the ids by which the calls of one piece of work are found, in all processes.
local core, yue, internal = ...
local type = type

yue.trace = {}

--- Runs `fn(...)` in a trace: calls made in it, and by the handlers of those calls, carry it. `traceparent` is the
--- value of an HTTP header of that name; without one, or with one that is malformed, a new trace begins.
function yue.trace.start(traceparent, fn, ...)
  if internal.is_callable(traceparent) then return core.with_trace(nil, traceparent, fn, ...) end
  local ok = traceparent == nil or type(traceparent) == 'string'
  if not ok or not internal.is_callable(fn) then
    internal.argument_error('yue.trace.start takes a traceparent (a string or nil), a function and its arguments')
  end
  return core.with_trace(traceparent, fn, ...)
end

--- The trace of the running fiber, in the form of the HTTP header `traceparent`; nil if nobody has begun one.
function yue.trace.current()
  return core.trace()
end

--- The number of the running handler's call chain, as text: the same for all handlers that call each other for one
--- request. nil before the first call of the chain, and outside handlers.
function yue.trace.chain()
  return core.call_chain()
end
