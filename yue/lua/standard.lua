-- Lua's own functions that would block the loop, replaced by ones that wait in the calling fiber: the standard
-- streams, pipes, terminals, commands.
--
-- A file on disk stays LuaJIT's (a FILE*), so that C modules can use it; a large one is read and written in pieces,
-- with turns of other fibers in between. The objects `io.stdin`, `io.stdout` and `io.stderr` stay as well, but their
-- methods use the buffers of the process: see `yue_io::stdio`.
local core, yue, internal = ...
local type, pcall, error, select, tonumber = type, pcall, error, select, tonumber
local setmetatable, getmetatable, rawequal = setmetatable, getmetatable, rawequal
local concat, match, sub, find, gsub = table.concat, string.match, string.sub, string.find, string.gsub
local huge = math.huge

local stdin, stdout, stderr = io.stdin, io.stdout, io.stderr
local methods = getmetatable(stdout).__index
local file_read, file_write, file_lines = methods.read, methods.write, methods.lines
local file_flush, file_close, file_seek = methods.flush, methods.close, methods.seek
local file_setvbuf = methods.setvbuf
local io_open, io_lines, io_type, io_input, io_output = io.open, io.lines, io.type, io.input, io.output
local execute = os.execute
local output_write, output_flush, may_suspend = core.output_write, core.output_flush, core.may_suspend

-- A file on disk is read and written in pieces of this size: some 0.1 ms.
local PIECE = 2 ^ 20
-- The longest number that `read '*n'` takes, as in Lua 5.3.
local NUMBER_MAX = 200
local ESPIPE = 29

-- -- Output ----------------------------------------------------------------------------------------------------------

-- The number of a standard output in the natives; nil for other files.
local function output_number(file)
  if rawequal(file, stdout) then return 1 end
  if rawequal(file, stderr) then return 2 end
end

local function bad_argument(index, name, text)
  error(("bad argument #%d to '%s' (%s)"):format(index, name, text), 3)
end

-- The arguments of a `write` as one text.
local function joined(...)
  local count = select('#', ...)
  if count == 1 then
    local text = ...
    if type(text) == 'string' then return text end
  end
  local parts = { ... }
  for i = 1, count do
    local kind = type(parts[i])
    if kind ~= 'string' and kind ~= 'number' then
      return nil, i, 'string expected, got ' .. kind
    end
  end
  return concat(parts)
end

function methods.write(file, ...)
  local number = output_number(file)
  if not number then
    local text = ...
    if type(text) ~= 'string' or #text <= PIECE or select('#', ...) > 1 or not may_suspend() then
      return file_write(file, ...)
    end
    for at = 1, #text, PIECE do
      local ok, message, code = file_write(file, sub(text, at, at + PIECE - 1))
      if not ok then return ok, message, code end
      yue.yield()
    end
    return true
  end
  local text, index, reason = joined(...)
  if not text then bad_argument(index, 'write', reason) end
  return output_write(number, text)
end

function methods.flush(file)
  local number = output_number(file)
  if number then return output_flush(number) end
  return file_flush(file)
end

local BUFFERING = { no = 'no', line = 'line', full = 'full' }

function methods.setvbuf(file, mode, ...)
  local number = output_number(file)
  if not number then return file_setvbuf(file, mode, ...) end
  if not BUFFERING[mode] then
    bad_argument(1, 'setvbuf', ("invalid option '%s'"):format(internal.to_text(mode)))
  end
  core.output_buffering(number, mode)
  return true
end

function methods.seek(file, ...)
  local number = output_number(file)
  if number then output_flush(number) end
  return file_seek(file, ...)
end

function methods.close(file)
  local number = output_number(file)
  if number then output_flush(number) end
  return file_close(file)
end

-- -- Input -----------------------------------------------------------------------------------------------------------

--- The program's standard input.
yue.stdin = internal.new_reader('the standard input', core.stdin_read)

-- Appends the next bytes to those that are buffered. False at the end.
local function fetch(reader)
  local bytes = reader:next_chunk()
  if not bytes then return false end
  local rest = reader.rest and sub(reader.rest, reader.at) or ''
  reader.rest, reader.at = rest .. bytes, 1
  return true
end

-- No bytes, to see whether there are any.
local function read_none(reader)
  return (not internal.must_read(reader) or fetch(reader)) and '' or nil
end

local function read_line(reader, keeps_end)
  local line = internal.next_line(reader, 'the input')
  -- At the end of the input nothing is buffered.
  if line and keeps_end and reader.rest then return line .. '\n' end
  return line
end

-- Like the C function scanf: the longest text that may begin a number is taken, and is a number or not.
local function read_number(reader)
  local has_ended = false
  while true do
    local rest, at = reader.rest, reader.at
    local start = rest and find(rest, '%S', at)
    if rest and not start then reader.rest, reader.at = nil, 1 end
    local stop = start and select(2, find(rest, '^[%w.+-]+', start))
    if start and (not stop or stop < #rest or has_ended or stop - start >= NUMBER_MAX) then
      if not stop then return nil end
      local text = sub(rest, start, stop)
      local taken = match(text, '^[+-]?0[xX]%x*') or match(text, '^[+-]?%d*%.?%d*[eE][+-]?%d+')
        or match(text, '^[+-]?%d*%.?%d*')
      reader.at = start + #taken
      return tonumber(taken)
    end
    if not fetch(reader) then
      if not start then return nil end
      -- So the text ends where the input does.
      has_ended = true
    end
  end
end

local function read_one(reader, what)
  if what == nil then return read_line(reader) end
  if what == 0 then return read_none(reader) end
  if type(what) == 'number' then return internal.read(reader, reader.what, what) end
  local letter = type(what) == 'string' and match(what, '^%*?([lLan])')
  if letter == 'l' then return read_line(reader) end
  if letter == 'L' then return read_line(reader, true) end
  if letter == 'a' then return internal.read(reader, reader.what, '*a', huge) end
  if letter == 'n' then return read_number(reader) end
  return nil, true
end

-- The results of `read` with these formats, the first of which is number `index`.
local function read_formats(reader, index, what, ...)
  local value, is_invalid = read_one(reader, what)
  if is_invalid then error(("bad argument #%d to 'read' (invalid format)"):format(index), 0) end
  if value == nil or select('#', ...) == 0 then return value end
  return value, read_formats(reader, index + 1, ...)
end

local function read_pieces(file)
  local parts = {}
  repeat
    local piece = file_read(file, PIECE)
    parts[#parts + 1] = piece
    local is_full = piece and #piece == PIECE
    if is_full then yue.yield() end
  until not is_full
  return concat(parts)
end

function methods.read(file, ...)
  if rawequal(file, stdin) then return read_formats(yue.stdin, 1, ...) end
  local what = ...
  if (what == '*a' or what == 'a') and select('#', ...) == 1 and io_type(file) == 'file' and may_suspend() then
    return read_pieces(file)
  end
  return file_read(file, ...)
end

local function lines_of(reader, ...)
  local formats, count = { ... }, select('#', ...)
  return function()
    if count == 0 then return read_line(reader) end
    return read_formats(reader, 1, unpack(formats, 1, count))
  end
end

function methods.lines(file, ...)
  if rawequal(file, stdin) then return lines_of(yue.stdin, ...) end
  return file_lines(file, ...)
end

-- -- Pipes, terminals, devices ---------------------------------------------------------------------------------------

-- A file that is not on disk, or on a simulated one. `reader` or `put` is there; `finish` closes it and returns the
-- results of `close`; `move` is there if it has a position. The reader refers to the object, which therefore outlives
-- it.
local Stream = { __name = 'FILE*' }
Stream.__index = Stream

local function is_stream(value)
  return type(value) == 'table' and rawequal(getmetatable(value), Stream)
end

local function check_open(stream)
  if not is_stream(stream) then error('bad argument #1 (a file expected)', 3) end
  if stream.closed then error('attempt to use a closed file', 3) end
end

function Stream:__tostring()
  return self.closed and 'file (closed)' or ('file (%s)'):format(self.what)
end

-- The results of a failed operation in Lua's form. A fiber that is stopped gets its error.
local function failure(e)
  if not internal.is_error(e) or type(e.code) ~= 'string' then error(e, 0) end
  return nil, e.msg, core.errno(e.code)
end

function Stream:read(...)
  check_open(self)
  if not self.reader then return nil, 'the file is open for writing', 9 end
  if not self.move then return read_formats(self.reader, 1, ...) end
  -- Errors of files are results, as in Lua's own library.
  local results = { pcall(read_formats, self.reader, 1, ...) }
  if not results[1] then return failure(results[2]) end
  return unpack(results, 2, math.max(select('#', ...), 1) + 1)
end

function Stream:lines(...)
  check_open(self)
  if not self.reader then error('the file is open for writing', 2) end
  return lines_of(self.reader, ...)
end

function Stream:write(...)
  check_open(self)
  if not self.put then return nil, 'the file is open for reading', 9 end
  local text, index, reason = joined(...)
  if not text then bad_argument(index, 'write', reason) end
  local ok, e, message, code = pcall(self.put, text)
  if not ok then return failure(e) end
  -- A stream of a simulated disk returns its error.
  if message then return nil, message, code end
  return true
end

--- Nothing is buffered.
function Stream:flush()
  check_open(self)
  return true
end

--- Nothing is buffered.
function Stream:setvbuf()
  check_open(self)
  return true
end

function Stream:seek(whence, offset)
  check_open(self)
  if self.move then return self.move(whence, offset) end
  return nil, 'Illegal seek', ESPIPE
end

--- A stream with these fields; see above.
function internal.new_stream(fields)
  return setmetatable(fields, Stream)
end

function Stream:close()
  check_open(self)
  self.closed = true
  return self.finish()
end

-- Opens a named pipe, a terminal or a device.
local function open_special(path, mode)
  local writes = not find(mode, '^r')
  local ok, handle = pcall(core.special_open, path, writes)
  if not ok then return failure(handle) end
  local stream = setmetatable({ what = path, handle = handle }, Stream)
  stream.guard = internal.closer(core.special_close, handle)
  if writes then
    function stream.put(text) core.special_write(handle, path, text) end
  else
    stream.reader = internal.new_reader(path, function() return core.special_read(stream.handle, path) end)
  end
  function stream.finish()
    core.special_close(handle)
    return true
  end
  return stream
end

function _G.io.open(path, mode, ...)
  if type(path) == 'string' and (mode == nil or type(mode) == 'string') and may_suspend() and core.is_special(path)
    and find(mode or 'r', '^[rwa]%+?b?$') and not find(mode or 'r', '+', 1, true) then
    return open_special(path, mode or 'r')
  end
  return io_open(path, mode, ...)
end

-- -- Commands --------------------------------------------------------------------------------------------------------

-- The C functions see the text up to the first zero byte.
local function shell_words(command)
  return concat({ '/bin/sh', '-c', match(command, '^%Z*'), '' }, '\0')
end

--- `os.execute`, with the results of Lua 5.1: the status as the C function `system` returns it. Where a fiber must not
--- wait, in a finalizer for example, it is Lua's own. The command is killed when the fiber is stopped.
function _G.os.execute(command)
  local kind = type(command)
  if (kind ~= 'string' and kind ~= 'number') or not may_suspend() then return execute(command) end
  output_flush(1)
  local child = core.process_spawn(shell_words(command), '', '', 'inherit', 'inherit', 'inherit')
  local ok, code, signal = pcall(core.process_wait, child)
  if not ok then core.process_kill(child, 9) end
  core.process_close(child)
  if not ok then error(code, 0) end
  return code and code * 256 or signal
end

--- `io.popen`. `close` waits for the command's end and returns true, `exit` or `signal`, and the number.
function _G.io.popen(command, mode)
  local kind = type(command)
  if kind ~= 'string' and kind ~= 'number' then
    bad_argument(1, 'popen', ('string expected, got %s'):format(command == nil and 'no value' or kind))
  end
  local writes = type(mode) == 'string' and match(mode, '^([rw])b?$') or (mode == nil and 'r')
  if not writes then bad_argument(2, 'popen', 'invalid mode') end
  writes = writes == 'w'
  output_flush(1)
  local ok, child = pcall(core.process_spawn, shell_words(command), '', '', writes and 'pipe' or 'inherit',
    writes and 'inherit' or 'pipe', 'inherit')
  if not ok then return failure(child) end
  local stream = setmetatable({ what = command }, Stream)
  stream.child, stream.guard = child, internal.closer(core.process_close, child)
  if writes then
    function stream.put(text) core.process_write(child, text) end
  else
    stream.reader = internal.new_reader(command, function() return core.process_read(stream.child, false) end)
  end
  function stream.finish()
    core.process_close_pipes(child)
    local code, signal = core.process_wait(child)
    core.process_close(child)
    return true, code and 'exit' or 'signal', code or signal
  end
  return stream
end

-- -- The default files -----------------------------------------------------------------------------------------------

local input, output = stdin, stdout

function _G.io.type(value)
  if is_stream(value) then return value.closed and 'closed file' or 'file' end
  return io_type(value)
end

-- The file that a program makes the default: an object, or the name of one that is opened.
local function chosen(file, mode, set, name)
  if type(file) == 'string' then
    local opened, message = _G.io.open(file, mode)
    if not opened then error(message, 3) end
    file = opened
  elseif not _G.io.type(file) then
    bad_argument(1, name, ('FILE* expected, got %s'):format(type(file)))
  end
  -- For C modules, which see LuaJIT's files alone.
  if not is_stream(file) and io_type(file) == 'file' then set(file) end
  return file
end

function _G.io.input(file)
  if file ~= nil then input = chosen(file, 'r', io_input, 'input') end
  return input
end

function _G.io.output(file)
  if file ~= nil then output = chosen(file, 'w', io_output, 'output') end
  return output
end

function _G.io.read(...)
  return input:read(...)
end

function _G.io.write(...)
  if rawequal(output, stdout) then
    local text, index, reason = joined(...)
    if not text then bad_argument(index, 'write', reason) end
    return output_write(1, text)
  end
  return output:write(...)
end

function _G.io.flush()
  return output:flush()
end

function _G.io.close(file)
  if file == nil then file = output end
  return file:close()
end

function _G.io.lines(path, ...)
  if path == nil then return input:lines(...) end
  if type(path) ~= 'string' or not may_suspend() or not core.is_special(path) then
    local ok, next_one = pcall(io_lines, path, ...)
    if not ok then error((gsub(next_one, "'%?'", "'lines'")), 2) end
    return next_one
  end
  local stream, message = open_special(path, 'r')
  if not stream then error(message, 2) end
  return internal.lines_to_end(stream, ...)
end

--- Iterates over the lines of a stream, which is closed after the last one.
function internal.lines_to_end(stream, ...)
  local next_one = stream:lines(...)
  return function()
    if stream.closed then error('file is already closed', 2) end
    local first, second, third, fourth = next_one()
    if first == nil then stream:close() end
    return first, second, third, fourth
  end
end
