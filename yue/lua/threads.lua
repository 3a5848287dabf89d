-- Worker threads: an OS thread with a loop and a VM of its own, called like any other server.
local core, yue, internal = ...
local setmetatable, type, error = setmetatable, type, error
local Emitter = internal.Emitter

local Thread = setmetatable({}, { __index = Emitter })
Thread.__index = Thread
Thread.__tostring = function(self) return 'thread ' .. self.name end

local function check_options(options)
  for key, value in pairs(options or {}) do
    if key ~= 'timeout' then internal.argument_error('yue.thread: there is no option ' .. tostring(key)) end
    if type(value) ~= 'number' or not (value > 0) then
      internal.argument_error('yue.thread: the option timeout is a number of seconds above 0')
    end
  end
  return options or {}
end

--- What crosses to the new thread: source or bytecode of a function, or a file's name.
local function portable(what, code)
  if type(code) == 'string' then return 'file', code end
  if type(code) ~= 'function' then
    internal.argument_error(what .. ' is a file name, or a function without upvalues')
  end
  for i = 1, 60 do
    local name, value = debug.getupvalue(code, i)
    if not name then break end
    -- `local yue = require 'yue'` is the one upvalue that every thread has.
    if value ~= yue then
      internal.argument_error(
        ('%s uses the upvalue %s, which cannot cross to another thread: pass it in a call'):format(what, name)
      )
    end
  end
  local ok, bytecode = pcall(string.dump, code)
  if not ok then internal.argument_error(what .. ' is a native function, which cannot cross to another thread') end
  return 'code', bytecode
end

--- Symbols cross as a file name, or as functions without upvalues in (nested) tables.
local function portable_symbols(symbols, path)
  if symbols == nil then return nil end
  if type(symbols) == 'string' then return symbols end
  local out = {}
  for key, value in pairs(symbols) do
    local where = path .. '.' .. tostring(key)
    if type(value) == 'function' then
      local _, bytecode = portable(where, value)
      out[key] = { bytecode }
    elseif type(value) == 'table' then
      out[key] = portable_symbols(value, where)
    else
      out[key] = value
    end
  end
  return yue.map(out)
end

local function unpack_symbols(symbols)
  if type(symbols) == 'string' then return symbols end
  local out = {}
  for key, value in pairs(symbols) do
    if type(value) == 'table' and type(value[1]) == 'string' and next(value, 1) == nil then
      out[key] = core.load_bytecode(value[1])
    elseif type(value) == 'table' then
      out[key] = unpack_symbols(value)
    else
      out[key] = value
    end
  end
  return out
end

local function new(_, name, code, first, second)
  if type(name) ~= 'string' or name == '' then internal.argument_error('yue.thread takes a name') end
  local options, symbols = first, second
  if second == nil and first ~= nil then
    -- Options alone, or symbols alone: told apart as for listen and open.
    if type(first) ~= 'table' or next(first) == nil or first.timeout == nil or type(first.timeout) == 'function' then
      options, symbols = nil, first
    end
  end
  options = check_options(options)
  local kind, text = portable('the code of yue.thread', code)
  local id = core.thread_start(name, kind, text, options.timeout or 3, portable_symbols(symbols, 'symbols'))
  local thread = internal.new_emitter(Thread, { name = name, id = id })
  thread.procs = yue.open('thread://' .. name)
  internal.adopt_current(thread)
  return thread
end

--- Ends the thread: its program gets a graceful shutdown. Returns when it is over.
function Thread:on_close()
  core.thread_close(self.id)
end

--- Waits until the thread is over: what it passed to `exit`, or raises what its program raised.
function Thread:join()
  return core.thread_join(self.id)
end

local api = {}

--- The thread of that name, or nil.
function api.find(name)
  local id = core.thread_find(name)
  if not id then return nil end
  local thread = internal.new_emitter(Thread, { name = name, id = id })
  thread.procs = yue.open('thread://' .. name)
  return thread
end

--- How many worker threads are running.
function api.count()
  return core.thread_count()
end

-- -- The thread that we are ------------------------------------------------------------------------------------------

local current = { name = core.name, index = core.index }
api.current = current

if core.role == 'thread' then
  local listener = yue.listen('thread://' .. core.name, {})
  internal.own_listener = listener
  current.namespace = listener.namespace
  core.release_listener_hold(listener.id)

  --- Adds to what others may call.
  function current:import(symbols)
    listener:import(symbols)
  end

  --- Called before the thread's program runs.
  function internal.import_symbols(symbols)
    listener:import(unpack_symbols(symbols))
  end
else
  function internal.import_symbols() end

  function current:import()
    internal.argument_error('yue.thread.current:import is for worker threads; a program serves with yue.listen')
  end
end

--- Ends this thread (in the main program: the program), as if its script were over. `join` returns the result.
function current:exit(result)
  core.thread_exit(result)
end

yue.thread = setmetatable(api, { __call = new })
