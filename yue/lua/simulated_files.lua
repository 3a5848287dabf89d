-- Files of a simulated host: there `io.open` and its relatives act on the disk of the host, which LuaJIT's own library
-- does not know. Modules and scripts are still read from the machine's disk.
--
-- Nothing is buffered for writing: what a program has written is the kernel's, as if it had called `flush`.
local core, yue, internal = ...

if not core.is_simulated() then return end

local type, error, tostring = type, error, tostring
local find, gsub, upper = string.find, string.gsub, string.upper

local function bad_argument(index, name, text)
  error(("bad argument #%d to '%s' (%s)"):format(index, name, text), 3)
end

local function check_text(index, name, value)
  local kind = type(value)
  if kind == 'number' then return tostring(value) end
  if kind ~= 'string' then
    bad_argument(index, name, ('string expected, got %s'):format(value == nil and 'no value' or kind))
  end
  return value
end

-- The results of a failed call on a path, in Lua's form.
local function failure(path, text, code)
  return nil, path .. ': ' .. gsub(text, '^%l', upper), code
end

-- A stream of an open file.
local function stream_of(handle, path, reads, writes)
  local stream = internal.new_stream({ what = path, guard = internal.closer(core.stream_close, handle) })
  local reader = internal.new_reader(path, function() return core.stream_read(handle, path) end)
  -- Moves the position back to the first byte that was read from the disk and not by the program.
  local function forget()
    local left = reader.rest and #reader.rest - reader.at + 1 or 0
    reader.rest, reader.at = nil, 1
    if left > 0 then core.stream_seek(handle, 'cur', -left) end
  end
  if reads then stream.reader = reader end
  if writes then
    function stream.put(text)
      forget()
      return core.stream_write(handle, text)
    end
  end
  function stream.move(whence, offset)
    whence, offset = whence or 'cur', offset or 0
    if whence ~= 'set' and whence ~= 'cur' and whence ~= 'end' then
      bad_argument(1, 'seek', ("invalid option '%s'"):format(internal.to_text(whence)))
    end
    forget()
    return core.stream_seek(handle, whence, offset)
  end
  function stream.finish()
    core.stream_close(handle)
    return true
  end
  return stream
end

function _G.io.open(path, mode)
  path = check_text(1, 'open', path)
  mode = mode == nil and 'r' or check_text(2, 'open', mode)
  if not find(mode, '^[rwa]%+?b?$') and not find(mode, '^[rwa]b%+$') then
    return failure(path, 'Invalid argument', core.errno 'EINVAL')
  end
  local handle, text, code = core.stream_open(path, mode)
  if not handle then return failure(path, text, code) end
  local updates = find(mode, '+', 1, true)
  return stream_of(handle, path, updates or find(mode, '^r'), updates or not find(mode, '^r'))
end

local open = _G.io.open
local default_lines = _G.io.lines

function _G.io.lines(path, ...)
  if path == nil then return default_lines(path, ...) end
  local stream, message = open(path, 'r')
  if not stream then error(message, 2) end
  return internal.lines_to_end(stream, ...)
end

function _G.io.tmpfile()
  local handle, text, code = core.stream_temporary()
  if not handle then return nil, text, code end
  return stream_of(handle, 'a temporary file', true, true)
end

function _G.os.remove(path)
  path = check_text(1, 'remove', path)
  local ok, text, code = core.path_remove(path)
  if not ok then return failure(path, text, code) end
  return true
end

function _G.os.rename(from, to)
  from, to = check_text(1, 'rename', from), check_text(2, 'rename', to)
  local ok, text, code = core.path_rename(from, to)
  if not ok then return failure(from, text, code) end
  return true
end

function _G.os.tmpname()
  local path, text = core.path_temporary()
  if not path then error('unable to generate a unique filename: ' .. text, 2) end
  return path
end
