-- Child processes. A command is a list: no shell reads it.
local core, yue, internal = ...
local type, pairs, ipairs, tostring, setmetatable = type, pairs, ipairs, tostring, setmetatable
local concat, find, sub, min = table.concat, string.find, string.sub, math.min

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
    code, signal, out, err = core.with_deadline(
      timeout, core.process_run, words, variables, folder, output_max, input)
  end
  return { code = code, signal = signal, out = out, err = err }
end

-- -- Readers ---------------------------------------------------------------------------------------------------------

-- The reading half of a pipe. `rest` are bytes that were read and not yet returned, from the position `at` on.
local Reader = internal.new_class 'reader'

function Reader:__tostring()
  return self.what
end

--- A reader of what `next_chunk()` returns: bytes, and nil at the end.
function internal.new_reader(what, next_chunk)
  return setmetatable({ what = what, next_chunk = next_chunk, rest = nil, at = 1 }, Reader)
end

local function read_all(self)
  local parts, size = {}, 0
  while true do
    local ok, bytes = pcall(self.read, self)
    if not ok then
      self.rest, self.at = concat(parts), 1
      error(bytes, 0)
    end
    if not bytes then return concat(parts) end
    parts[#parts + 1] = bytes
    size = size + #bytes
    if size > OUTPUT_MAX then
      self.rest, self.at = concat(parts), 1
      error(internal.make_error('RuntimeError',
        ('%s has more than %d bytes; read them in parts'):format(self.what, OUTPUT_MAX), 'EFBIG'), 0)
    end
  end
end

local function read_count(self, count)
  local parts, size = {}, 0
  while size < count do
    local ok, bytes = pcall(self.read, self)
    if not ok then
      self.rest, self.at = concat(parts), 1
      error(bytes, 0)
    end
    if not bytes then break end
    parts[#parts + 1] = bytes
    size = size + #bytes
  end
  local text = concat(parts)
  if size > count then self.rest, self.at = text, count + 1 end
  if text == '' and count > 0 then return nil end
  return sub(text, 1, count)
end

--- The next bytes, as they come; with `count` so many, or fewer at the end; with `'*a'` all. Nil at the end.
function Reader:read(count)
  if count == nil then
    local rest, at = self.rest, self.at
    self.rest, self.at = nil, 1
    if rest and at <= #rest then return sub(rest, at) end
    return self.next_chunk()
  end
  if count == '*a' then return read_all(self) end
  if type(count) ~= 'number' or not (count >= 0 and count <= OUTPUT_MAX) or count % 1 ~= 0 then
    internal.argument_error(("read takes nothing, '*a', or a number of bytes up to %d, not %s"):format(
      OUTPUT_MAX, internal.describe_value(count)))
  end
  return read_count(self, count)
end

--- The next line, without its end; nil at the end.
function Reader:line()
  return internal.next_line(self, self.what)
end

--- Iterates over the lines.
function Reader:lines()
  return function() return self:line() end
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

--- Ends the standard input and waits for the program's end: returns `{ code, signal }`.
function Process:wait()
  core.process_close_stdin(self.handle)
  local code, signal = core.process_wait(self.handle)
  return { code = code, signal = signal }
end

yue.process = process
