-- Error objects: the class tree, and the conversion of any raised value into an error object.
--
-- An error object is a table with the fields type, code, msg, retryable, bt (traceback), and, where a table was raised,
-- value. The tree below `RPCError` comes from the RPC layer (`core.error_kinds`), so that names and numbers have one
-- source.
local core, yue, internal = ...
local getmetatable, setmetatable, type, tostring = getmetatable, setmetatable, type, tostring
local xpcall, error, pairs = xpcall, error, pairs
local debug_traceback, gsub, find, sub = debug.traceback, string.gsub, string.find, string.sub
local running = coroutine.running

local classes = {} -- by name
local class_of = setmetatable({}, { __mode = 'k' }) -- metatable of instances -> class

local methods = {}

--- Whether the error is of the class, or of one below it.
function methods:is_a(class)
  if type(class) == 'table' then class = class.type end
  if type(class) ~= 'string' then
    internal.argument_error("e:is_a takes a class, or its name: e:is_a('TimeoutError')")
  end
  local this = class_of[getmetatable(self)]
  while this do
    if this.type == class then return true end
    this = this.parent
  end
  return self.type == class
end

--- `tostring` of anything, whatever its metatable does.
local function to_text(value)
  local ok, text = pcall(tostring, value)
  return ok and text or type(value)
end

internal.to_text = to_text

local function describe(e)
  return to_text(e.type) .. ': ' .. to_text(e.msg)
end

--- Describes the type of an argument in messages: `nil`, `a string`.
function internal.describe_value(value)
  local kind = type(value)
  if kind == 'nil' then return 'nil' end
  if kind == 'number' then return 'the number ' .. tostring(value) end
  return 'a ' .. kind
end

local debug_getmetatable = debug.getmetatable

--- Whether the value can be called: a function, a procedure of a peer, anything with `__call`.
function internal.is_callable(value)
  if type(value) == 'function' then return true end
  local meta = debug_getmetatable(value)
  return meta ~= nil and rawget(meta, '__call') ~= nil
end

local function is_error(value)
  return type(value) == 'table' and class_of[getmetatable(value)] ~= nil
end

--- `'failed: ' .. e`
local function concat(a, b)
  return to_text(a) .. to_text(b)
end

local function define(name, code, parent)
  local class = { type = name, code = code, parent = parent }
  local meta = { __index = methods, __tostring = describe, __concat = concat, __name = name }
  class_of[meta] = class
  class.meta = meta
  --- Creates an error object; raise it with `error(e)`.
  function class.new(msg, value)
    if value == nil and type(msg) == 'table' then
      value, msg = msg, 'a table was raised'
    end
    return setmetatable({ type = name, code = code, msg = to_text(msg), retryable = false, value = value }, meta)
  end
  classes[name] = class
  return class
end

define('Error', -1)
for _, kind in ipairs(core.error_kinds) do
  define(kind.name, kind.code, classes[kind.parent or 'Error'])
end

yue.errors = {}
for name, class in pairs(classes) do
  yue.errors[name] = setmetatable(
    { type = name, code = class.code, new = class.new },
    { __call = function(_, ...) return class.new(...) end, __tostring = function() return name end }
  )
end

local remote = setmetatable({}, { __mode = 'k' }) -- errors whose traceback does not show yet where they arrived

--- Makes an error object of its parts. An unknown type is an `RPCError` by class and keeps its name.
function internal.make_error(name, msg, code, bt, retryable, value)
  local class = classes[name] or classes.RPCError
  local e = setmetatable({
    type = name,
    code = code or class.code,
    msg = msg,
    bt = bt,
    retryable = retryable or false,
    value = value,
  }, class.meta)
  if bt then remote[e] = true end
  return e
end

--- The text of a raised value that is not an error object. Its address would say nothing, and may be sent to strangers.
local function raised_text(value)
  local kind = type(value)
  local meta = debug_getmetatable(value)
  if kind == 'string' or kind == 'number' or (meta and rawget(meta, '__tostring')) then return to_text(value) end
  if kind == 'table' then
    local text = rawget(value, 'message') or rawget(value, 'msg')
    return type(text) == 'string' and text or 'a table'
  end
  if kind == 'nil' or kind == 'boolean' or kind == 'cdata' then return to_text(value) end
  return kind == 'thread' and 'a coroutine' or 'a ' .. kind
end

--- The calls that led to the caller's caller; an empty string if none is known. Frames that are only
--- an address (the caller of a handler, a function reached by a tail call) are left out.
local function traceback()
  local text = gsub(debug_traceback('', 3), '\n\t%[[^%]\n]*%]: at 0x%x+', '')
  return find(text, '\n\t', 1, true) and text or ''
end

-- LuaJIT's message for every `coroutine.yield` that it refuses.
local YIELD_REFUSED = 'attempt to yield across C-call boundary'
local YIELD_ADVICE = '; coroutine.yield works only in a coroutine: to let other fibers run, call yue.yield()'

--- The error handler of every protected call of the prelude: any value becomes an error object with a traceback.
function internal.wrap(e)
  if is_error(e) then
    if e.bt == nil then
      e.bt = traceback()
    elseif remote[e] then
      -- It has the peer's traceback; the location where it arrived belongs to it.
      remote[e] = nil
      local here = traceback()
      if here ~= '' then e.bt = to_text(e.bt) .. '\ncalled from:' .. here end
    end
    return e
  end
  local made
  if type(e) == 'string' then
    -- A fiber's main function is not a coroutine. In a coroutine LuaJIT's message is right: a C function is in between.
    if sub(e, -#YIELD_REFUSED) == YIELD_REFUSED and not running() then e = e .. YIELD_ADVICE end
    made = internal.make_error('RuntimeError', e)
  else
    made = internal.make_error('RuntimeError', 'an error value was raised: ' .. raised_text(e), nil, nil, nil, e)
  end
  made.bt = traceback()
  return made
end

internal.is_error = is_error

--- Raises an ArgumentError that blames the caller of the calling function.
function internal.argument_error(text)
  error(classes.ArgumentError.new(text), 0)
end

--- The text of an uncaught error for the user of a program.
function internal.report(e)
  if not is_error(e) then return to_text(e) end
  local bt = type(e.bt) == 'string' and gsub(e.bt, '^%s+', '')
  return bt and bt ~= '' and (describe(e) .. '\n' .. bt) or describe(e)
end

-- Errors in finalizers cannot be raised anywhere. LuaJIT itself would write them past the log, and for objects only a
-- `?`.
jit.attach(function(e)
  local text = is_error(e) and internal.report(e) or raised_text(e)
  core.warn_of_finalizer('a finalizer (__gc) failed: ' .. text)
end, 'errfin')

local wrap = internal.wrap

local function run_finally(block, ok, ...)
  if block.finally then core.shield(block.finally) end
  if not ok then error((...), 0) end
  return ...
end

local function run_catch(block, ok, ...)
  if ok or not block.catch then return run_finally(block, ok, ...) end
  return run_finally(block, xpcall(block.catch, wrap, (...)))
end

--- `yue.try{fn, catch = function(e) end, finally = function() end}`: returns the result of `fn`, or of `catch` if it
--- raised.
--- `finally` always runs, and may wait even if the fiber was cancelled.
function yue.try(block)
  if type(block) ~= 'table' or not internal.is_callable(block[1]) then
    internal.argument_error('yue.try takes a table that begins with a function: yue.try{function() … end, catch = …}')
  end
  for name, value in pairs(block) do
    if name == 'catch' or name == 'finally' then
      if not internal.is_callable(value) then
        internal.argument_error(('yue.try: %s is a function, not %s'):format(name, internal.describe_value(value)))
      end
    elseif name ~= 1 then
      internal.argument_error(
        ('yue.try takes one function, catch and finally, and not %s'):format(internal.to_text(name))
      )
    end
  end
  return run_catch(block, internal.guarded(block[1]))
end
