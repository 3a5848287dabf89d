-- Error objects: the class tree, and turning whatever was raised into one of them.
--
-- An error object is a table with the fields type, code, msg, bt (traceback), and, where a table was raised, value. The
-- tree below `RPCError` comes from the RPC layer (`core.error_kinds`), so that names and numbers have one source.
local core, yue, internal = ...
local getmetatable, setmetatable, type, tostring = getmetatable, setmetatable, type, tostring
local xpcall, error = xpcall, error
local traceback = debug.traceback

local classes = {} -- by name
local class_of = setmetatable({}, { __mode = 'k' }) -- metatable of instances -> class

local methods = {}

--- Whether the error is of the class, or of one below it.
function methods:is_a(class)
  if type(class) == 'table' then class = class.type end
  local this = class_of[getmetatable(self)]
  while this do
    if this.type == class then return true end
    this = this.parent
  end
  return self.type == class
end

local function describe(e)
  return tostring(e.type) .. ': ' .. tostring(e.msg)
end

local function is_error(value)
  return type(value) == 'table' and class_of[getmetatable(value)] ~= nil
end

local function define(name, code, parent)
  local class = { type = name, code = code, parent = parent }
  local meta = { __index = methods, __tostring = describe, __name = name }
  class_of[meta] = class
  class.meta = meta
  --- A new error object; raise it with `error(e)`.
  function class.new(msg, value)
    if value == nil and type(msg) == 'table' then
      value, msg = msg, 'a table was raised'
    end
    return setmetatable({ type = name, code = code, msg = tostring(msg), value = value }, meta)
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

--- Makes an error object of its parts. A type that we do not know is an `RPCError` by class and keeps its name.
function internal.make_error(name, msg, code, bt, retryable, value)
  local class = classes[name] or classes.RPCError
  return setmetatable({
    type = name,
    code = code or class.code,
    msg = msg,
    bt = bt,
    retryable = retryable or nil,
    value = value,
  }, class.meta)
end

--- The error handler of every protected call of ours: any value becomes an error object with a traceback.
function internal.wrap(e)
  if is_error(e) then
    local here = traceback('', 2)
    if not e.bt then
      e.bt = here
    elseif e.remote_bt == nil and e.retraced == nil then
      e.retraced = true
      e.bt = e.bt .. '\ncalled from:' .. here
    end
    return e
  end
  if type(e) == 'string' then
    return internal.make_error('RuntimeError', e, nil, traceback('', 2))
  end
  local text = 'an error value was raised: ' .. tostring(e)
  return internal.make_error('RuntimeError', text, nil, traceback('', 2), nil, e)
end

internal.is_error = is_error

--- Raises an ArgumentError that blames the caller of the function which calls this.
function internal.argument_error(text)
  error(classes.ArgumentError.new(text), 0)
end

--- The text that a program's user sees of an error that nobody caught.
function internal.report(e)
  if not is_error(e) then return tostring(e) end
  local bt = e.bt and e.bt:gsub('^%s+', '')
  return bt and bt ~= '' and (describe(e) .. '\n' .. bt) or describe(e)
end

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

--- `yue.try{fn, catch = function(e) end, finally = function() end}`: the result of `fn`, or of `catch` if it raised.
--- `finally` runs in any case, and may wait even if the fiber was cancelled.
function yue.try(block)
  if type(block) ~= 'table' or type(block[1]) ~= 'function' then
    internal.argument_error('yue.try takes a table that begins with a function: yue.try{function() … end, catch = …}')
  end
  return run_catch(block, internal.guarded(block[1]))
end
