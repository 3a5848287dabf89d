-- Child processes. A command is a list: no shell reads it.
local core, yue, internal = ...
local type, pairs, ipairs, tostring, setmetatable = type, pairs, ipairs, tostring, setmetatable
local concat, find = table.concat, string.find

-- More output is seldom meant to be in memory at once.
local OUTPUT_MAX = 2 ^ 24

local process = {}

-- -- Options ---------------------------------------------------------------------------------------------------------

local function fail(name, text)
  internal.argument_error(('yue.process.%s: %s'):format(name, text))
end

-- The natives take lists as one string, whose items end with a zero byte.
local function packed(name, what, items)
  for i, item in ipairs(items) do
    if type(item) == 'number' then
      items[i] = tostring(item)
    elseif type(item) ~= 'string' then
      fail(name, ('%s %d is a string, not %s'):format(what, i, internal.describe_value(item)))
    elseif find(item, '\0', 1, true) then
      fail(name, ('%s %d contains a zero byte'):format(what, i))
    end
  end
  items[#items + 1] = ''
  return concat(items, '\0')
end

local function pack_words(name, command)
  local words = {}
  for i = 1, #command do words[i] = command[i] end
  if #words == 0 or words[1] == '' then
    fail(name, "the command is a list, the program first: yue.process." .. name .. "{ 'ls', '-l' }")
  end
  return packed(name, 'word', words)
end

local function pack_variables(name, variables)
  if variables == nil then return '' end
  if type(variables) ~= 'table' then fail(name, 'env is a table: { NAME = value }') end
  local items = {}
  for key, value in pairs(variables) do
    if type(key) ~= 'string' or key == '' or find(key, '[=%z]') then
      fail(name, 'env has a name that is not one: ' .. internal.to_text(key))
    end
    if value == false then
      items[#items + 1] = key
    elseif type(value) == 'string' or type(value) == 'number' then
      items[#items + 1] = key .. '=' .. value
    else
      fail(name, ('env.%s is a string, or false to remove it, not %s'):format(key, internal.describe_value(value)))
    end
  end
  return packed(name, 'variable', items)
end

--- The words, the variables and the folder of a command, packed for the natives.
function internal.pack_command(name, command, variables, folder)
  return pack_words(name, command), pack_variables(name, variables), folder or ''
end

--- The words, the variables and the folder of a command.
local function check_command(name, command, known)
  if type(command) ~= 'table' then
    fail(name, ("it takes a list, not %s: yue.process.%s{ 'ls', '-l' }"):format(internal.describe_value(command), name))
  end
  local count, options = #command, {}
  for key, value in pairs(command) do
    if type(key) ~= 'number' or key < 1 or key > count or key % 1 ~= 0 then options[key] = value end
  end
  internal.check_options('yue.process.' .. name, options, known)
  local folder = command.cwd
  if folder ~= nil and (type(folder) ~= 'string' or folder == '') then fail(name, 'cwd is a path, a string') end
  return pack_words(name, command), pack_variables(name, command.env), folder or ''
end

local function say_which(name, seconds, limit, ok, ...)
  if ok then return ... end
  local e = ...
  -- The limit may have been another one, of the calling fiber.
  if internal.is_error(e) and e.type == 'TimeoutError' and yue.now() >= limit then
    error(internal.make_error('TimeoutError', ("'%s' did not end within %g s"):format(tostring(name), seconds)), 0)
  end
  error(e, 0)
end

--- Calls `wait(...)`, at most so long; a timeout names the program.
local function within(seconds, name, wait, ...)
  return say_which(name, seconds, yue.now() + seconds, pcall(core.with_deadline, seconds, wait, ...))
end

-- -- Run -------------------------------------------------------------------------------------------------------------

local RUN_OPTIONS = { cwd = true, env = true, stdin = true, timeout = true, output_max = true }

--- Runs a program to its end: returns `{ code, signal, out, err }`. It is killed when the fiber is stopped.
function process.run(command)
  local words, variables, folder = check_command('run', command, RUN_OPTIONS)
  local input, output_max, timeout = command.stdin, command.output_max or OUTPUT_MAX, command.timeout
  if input ~= nil and type(input) ~= 'string' then
    fail('run', 'stdin is the text of the standard input, not ' .. internal.describe_value(input))
  end
  if type(output_max) ~= 'number' or not (output_max >= 0 and output_max <= 2 ^ 30) then
    fail('run', 'output_max is a number of bytes, up to 1 GiB')
  end
  local code, signal, out, err
  if timeout == nil then
    code, signal, out, err = core.process_run(words, variables, folder, output_max, input)
  else
    internal.check_seconds('yue.process.run: timeout', timeout)
    code, signal, out, err = within(timeout, command[1], core.process_run, words, variables, folder, output_max, input)
  end
  return { code = code, signal = signal, out = out, err = err }
end

-- -- Spawn -----------------------------------------------------------------------------------------------------------

local Process = internal.new_class 'process'

function Process:__tostring()
  return ("process %d (%s)"):format(self.pid, self.name)
end

local SPAWN_OPTIONS = { cwd = true, env = true, stdin = true, stdout = true, stderr = true }
local STREAMS = { pipe = true, null = true, inherit = true }

local function stream_option(command, name, default)
  local stream = command[name]
  if stream == nil then return default end
  if not STREAMS[stream] then fail('spawn', name .. " is 'pipe', 'null' or 'inherit'") end
  return stream
end

--- Starts a program, and returns an object with its pipes.
function process.spawn(command)
  local words, variables, folder = check_command('spawn', command, SPAWN_OPTIONS)
  local stdin = stream_option(command, 'stdin', 'pipe')
  local stdout = stream_option(command, 'stdout', 'pipe')
  local stderr = stream_option(command, 'stderr', 'inherit')
  local handle, pid = core.process_spawn(words, variables, folder, stdin, stdout, stderr)
  local self = setmetatable({
    pid = pid, handle = handle, name = tostring(command[1]), guard = internal.closer(core.process_close, handle),
  }, Process)
  -- The readers refer to the object, which therefore outlives them.
  local what = ' of ' .. tostring(self)
  self.out = internal.new_reader('the output' .. what, function() return core.process_read(self.handle, false) end)
  if stderr == 'pipe' then
    self.err = internal.new_reader('the errors' .. what, function() return core.process_read(self.handle, true) end)
  end
  return self
end

--- Writes to the standard input; waits while the pipe is full.
function Process:write(text)
  if type(text) ~= 'string' then internal.check_string('write', text) end
  core.process_write(self.handle, text)
end

--- Ends the standard input: the program reads its end.
function Process:close_stdin()
  core.process_close_stdin(self.handle)
end

--- Reads from the standard output: the next bytes; `count` bytes; with `'*a'` all. Nil at the end.
function Process:read(count)
  return self.out:read(count)
end

--- The next line of the standard output, without its end; nil at the end.
function Process:line()
  return self.out:line()
end

--- Iterates over the lines of the standard output.
function Process:lines()
  return self.out:lines()
end

--- Sends a signal, SIGKILL by default. Returns whether the program's end was still unknown.
function Process:kill(signal)
  if signal == nil then signal = 9 end
  if type(signal) ~= 'number' or not (signal >= 1 and signal <= 64) or signal % 1 ~= 0 then
    internal.argument_error('kill takes a signal, such as yue.const.SIGTERM, not ' .. internal.describe_value(signal))
  end
  return core.process_kill(self.handle, signal)
end

--- Ends the standard input and waits for the program's end: returns `{ code, signal }`. With `timeout` it waits so many
--- seconds; the program continues after a timeout.
function Process:wait(timeout)
  core.process_close_stdin(self.handle)
  local code, signal
  if timeout == nil then
    code, signal = core.process_wait(self.handle)
  else
    internal.check_seconds('wait', timeout)
    code, signal = within(timeout, self.name, core.process_wait, self.handle)
  end
  return { code = code, signal = signal }
end

yue.process = process
