-- Worker threads: an OS thread with its own loop and VM, called like any other server.
local core, yue, internal = ...
local setmetatable, type, pairs, pcall = setmetatable, type, pairs, pcall
local Emitter = internal.Emitter

local Thread = internal.emitter_class { 'exit' }
Thread.__tostring = function(self) return 'thread ' .. self.name end

--- `timeout`: seconds that the start may take. `cancel`: callers may stop handlers that have started.
local OPTIONS = { timeout = true, cancel = true }

local function check_options(options)
  if options == nil then return {} end
  if type(options) ~= 'table' then
    internal.argument_error('yue.thread: options are a table, not ' .. internal.describe_value(options))
  end
  for key, value in pairs(options) do
    if not OPTIONS[key] then internal.argument_error('yue.thread: there is no option ' .. tostring(key)) end
    if key == 'timeout' and not (type(value) == 'number' and value > 0) then
      internal.argument_error('yue.thread: the option timeout is a number of seconds above 0')
    end
    if key == 'cancel' and type(value) ~= 'boolean' then
      internal.argument_error('yue.thread: the option cancel is true or false')
    end
  end
  return options
end

--- The code that crosses to the new thread: source or bytecode of a function, or a file's name.
local function portable(what, code)
  if type(code) == 'string' then return 'file', code end
  if type(code) ~= 'function' then
    internal.argument_error(
      ('%s is a file name, or a function without upvalues, not %s'):format(what, internal.describe_value(code))
    )
  end
  local ok, bytecode = pcall(string.dump, code)
  if not ok then
    internal.argument_error(
      what .. ' is a native function, which cannot cross to another thread: wrap it in a Lua function'
    )
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
  return 'code', bytecode
end

internal.portable = portable

local SYMBOLS_DEPTH_MAX = 100

--- Symbols cross as a file name, or as functions without upvalues in (nested) tables: each value as a pair of its kind
--- and its contents.
local function portable_symbols(symbols, path, depth)
  if type(symbols) == 'string' then return symbols end
  if type(symbols) ~= 'table' then
    internal.argument_error(
      ('yue.thread: %s are a table of functions or a file name, not %s'):format(path, internal.describe_value(symbols))
    )
  end
  if depth > SYMBOLS_DEPTH_MAX then
    internal.argument_error('yue.thread: the symbols are too deep, or hold themselves')
  end
  local out = {}
  for key, value in pairs(symbols) do
    local where = path .. '.' .. tostring(key)
    if type(value) == 'function' then
      local _, bytecode = portable(where, value)
      out[key] = { 'function', bytecode }
    elseif type(value) == 'table' then
      out[key] = { 'table', portable_symbols(value, where, depth + 1) }
    else
      out[key] = { 'value', value }
    end
  end
  return yue.map(out)
end

local function unpack_symbols(symbols)
  if type(symbols) == 'string' then return symbols end
  local out = {}
  for key, pair in pairs(symbols) do
    if pair[1] == 'function' then
      out[key] = core.load_bytecode(pair[2])
    elseif pair[1] == 'table' then
      out[key] = unpack_symbols(pair[2])
    else
      out[key] = pair[2]
    end
  end
  return out
end

--- The object of a thread. While any exists, the thread's outcome is kept.
local function new_object(name, id)
  local thread = internal.new_emitter(Thread, { name = name, id = id })
  thread.procs = yue.open('thread://' .. name)
  internal.guard_collection(thread, function() core.thread_release(id) end)
  return thread
end

--- Whether a table in the position of options or symbols can only be options.
local function are_options(value)
  if type(value) ~= 'table' or next(value) == nil then return false end
  for key, item in pairs(value) do
    if not OPTIONS[key] or type(item) == 'function' or type(item) == 'table' then return false end
  end
  return true
end

local function new(_, name, code, first, second)
  if type(name) ~= 'string' or not name:find('^[^%c%s/]+$') then
    internal.argument_error("yue.thread takes a name first: text without blanks, control characters and '/'")
  end
  local options, symbols = first, second
  if second == nil and not are_options(first) then options, symbols = nil, first end
  options = check_options(options)
  local kind, text = portable('the code of yue.thread', code)
  if symbols ~= nil then symbols = portable_symbols(symbols, 'symbols', 1) end
  local id = core.thread_start(name, kind, text, options.timeout or 3, symbols, options.cancel)
  local thread = new_object(name, id)
  internal.adopt_current(thread)
  return thread
end

local function emit_exit(thread)
  if thread.exit_emitted then return end
  thread.exit_emitted = true
  thread:emit('exit', pcall(core.thread_join, thread.id))
end

local function watch_exit(thread, event)
  if thread.watched or event ~= 'exit' then return end
  thread.watched = true
  internal.start(function()
    internal.mark_helper(true)
    pcall(core.thread_join, thread.id)
    internal.mark_helper(false)
    emit_exit(thread)
  end)
end

--- Like every emitter's. The event is `exit`: the thread has ended. Callbacks receive the values that `pcall(t.join,
--- t)` returns.
function Thread:bind(events, fn)
  local bound = Emitter.bind(self, events, fn)
  watch_exit(self, 'exit')
  return bound
end

function Thread:wait(event, timeout)
  if not self.closed then watch_exit(self, event) end
  return Emitter.wait(self, event, timeout)
end

--- Ends the thread: its program gets a graceful shutdown. Returns when it has ended.
function Thread:close()
  if self.closing then return end
  self.closing = true
  core.thread_close(self.id)
  -- No handler runs there any more: calls from now on must fail at once.
  yue.conn(self.procs):close()
  emit_exit(self)
  internal.end_emitter(self)
end

--- Waits until the thread has ended: returns the value that it passed to `exit`, or raises its program's error.
function Thread:join()
  return core.thread_join(self.id)
end

local api = {}

--- The thread of that name, or nil.
function api.find(name)
  if type(name) ~= 'string' then
    internal.argument_error('yue.thread.find takes the name of a thread, not ' .. internal.describe_value(name))
  end
  local id = core.thread_find(name)
  return id and new_object(name, id)
end

--- The number of running worker threads.
function api.count()
  return core.thread_count()
end

-- -- The thread that we are ------------------------------------------------------------------------------------------

local current = { name = core.name, index = core.index }
api.current = current

if core.role == 'thread' then
  local listener = yue.listen('thread://' .. core.name, { cancel = core.cancel_handlers }, {})
  internal.own_listener = listener
  current.namespace = listener.namespace
  core.release_listener_hold(listener._id)

  --- Adds functions that others may call.
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

--- Ends this thread (in the main program: the program), as if its script had ended. `join` returns the result.
function current:exit(result)
  if self ~= current then internal.argument_error('write yue.thread.current:exit(result), with a colon') end
  core.thread_exit(result)
end

yue.thread = setmetatable(api, { __call = new })
