-- Readers: text and lines of bytes that come in chunks, from files, pipes and sockets.
--
-- The state of a reader is any table: `state:next_chunk()` returns the next bytes, and nil at the end; `state.rest` and
-- `state.at` are bytes that were received and not yet returned, and the position of the first. A wait may be cancelled,
-- or its time may pass: then everything received so far goes back to `rest`, and the next call returns it.
local core, yue, internal = ...
local type, pcall, error, setmetatable = type, pcall, error, setmetatable
local find, sub, byte, concat = string.find, string.sub, string.byte, table.concat

-- More bytes are seldom meant to be in memory at once.
local READ_MAX = 2 ^ 24

-- A text without line ends must not take all memory.
local LINE_MAX = 2 ^ 26

local RETURN = byte '\r'

-- A peer may send byte by byte, and an entry of a list takes as much memory as sixteen bytes. So this many pieces are
-- joined to one.
local PIECES_MAX = 4096

--- Adds a piece to a list. `pieces.joined` are those that were joined.
local function add(pieces, piece)
  local count = #pieces
  if count == PIECES_MAX then
    local joined = pieces.joined or {}
    joined[#joined + 1] = concat(pieces)
    for i = count, 1, -1 do pieces[i] = nil end
    pieces.joined, count = joined, 0
  end
  pieces[count + 1] = piece
end

--- All pieces as one text.
local function join(pieces)
  local text = concat(pieces)
  return pieces.joined and concat(pieces.joined) .. text or text
end

--- Puts received pieces back and raises the error.
local function put_back(state, parts, e)
  state.rest, state.at = join(parts), 1
  error(e, 0)
end

local function too_large(text, ...)
  return internal.make_error('RuntimeError', text:format(...), 'EFBIG')
end

--- The next bytes, as they come; nil at the end.
local function read_some(state)
  local rest, at = state.rest, state.at
  state.rest, state.at = nil, 1
  if rest and at <= #rest then return at == 1 and rest or sub(rest, at) end
  return state:next_chunk()
end

--- All bytes up to the end, at most `max`. `what` names the reader in errors.
local function read_all(state, what, max)
  local parts, size = {}, 0
  while true do
    local ok, bytes = pcall(read_some, state)
    if not ok then put_back(state, parts, bytes) end
    if not bytes then return join(parts) end
    add(parts, bytes)
    size = size + #bytes
    if size > max then
      put_back(state, parts, too_large('%s has more than %d bytes; read them in parts', what, max))
    end
  end
end

--- `count` bytes, or fewer at the end; nil at the end.
local function read_count(state, count)
  local rest, at = state.rest, state.at
  if rest and at + count - 1 <= #rest then
    state.at = at + count
    return sub(rest, at, at + count - 1)
  end
  local parts, size = {}, 0
  while size < count do
    local ok, bytes = pcall(read_some, state)
    if not ok then put_back(state, parts, bytes) end
    if not bytes then break end
    local wanted = count - size
    if #bytes > wanted then
      state.rest, state.at = bytes, wanted + 1
      bytes = sub(bytes, 1, wanted)
    end
    add(parts, bytes)
    size = size + #bytes
  end
  if size == 0 and count > 0 then return nil end
  return join(parts)
end

--- Whether `read` needs bytes that have not been received yet.
function internal.must_read(state, count)
  local rest = state.rest
  local left = rest and #rest - state.at + 1 or 0
  if count == nil then return left == 0 end
  return count == '*a' or left < count
end

local function check_count(count)
  if count == nil or count == '*a' then return end
  if type(count) ~= 'number' or not (count >= 0 and count <= READ_MAX) or count % 1 ~= 0 then
    internal.argument_error(("read takes nothing, '*a', or a number of bytes up to %d, not %s"):format(
      READ_MAX, internal.describe_value(count)))
  end
end
internal.check_count = check_count

--- The next bytes, as they come; with `count` so many, or fewer at the end; with `'*a'` all, at most `max`. Nil at the
--- end.
local function read(state, what, count, max)
  if count == nil then return read_some(state) end
  if count == '*a' then return read_all(state, what, max or READ_MAX) end
  return read_count(state, count)
end
internal.read = read

-- -- Lines -----------------------------------------------------------------------------------------------------------

--- A line without its end, and if `strips` is true without a "\r" before that.
local function stripped(line, strips)
  if strips and byte(line, -1) == RETURN then return sub(line, 1, -2) end
  return line
end

--- The next line, without its end; nil after the last one. `what` names the reader in errors. A line of more than `max`
--- bytes is an error, and can still be read in parts.
function internal.next_line(state, what, max, strips)
  local parts, size = nil, 0
  max = max or LINE_MAX
  while true do
    local rest, at = state.rest, state.at
    if rest then
      local stop = find(rest, '\n', at, true)
      if size + (stop or #rest + 1) - at > max then
        if not parts then error(too_large('%s has a line of more than %d bytes; read it in parts', what, max), 0) end
        add(parts, sub(rest, at))
        put_back(state, parts, too_large('%s has a line of more than %d bytes; read it in parts', what, max))
      end
      if stop then
        state.at = stop + 1
        local piece = sub(rest, at, stop - 1)
        if not parts then return stripped(piece, strips) end
        add(parts, piece)
        return stripped(join(parts), strips)
      end
      if at <= #rest then
        parts = parts or {}
        add(parts, sub(rest, at))
        size = size + #rest - at + 1
      end
    end
    state.rest, state.at = nil, 1
    local ok, chunk = pcall(state.next_chunk, state)
    if not ok then
      if parts then put_back(state, parts, chunk) end
      error(chunk, 0)
    end
    if not chunk then return parts and stripped(join(parts), strips) or nil end
    state.rest = chunk
  end
end

-- -- The class -------------------------------------------------------------------------------------------------------

local Reader = internal.new_class 'reader'

function Reader:__tostring()
  return self.what
end

--- A reader of what `next_chunk()` returns: bytes, and nil at the end.
function internal.new_reader(what, next_chunk)
  return setmetatable({ what = what, next_chunk = next_chunk, rest = nil, at = 1 }, Reader)
end

--- The next bytes, as they come; with `count` so many, or fewer at the end; with `'*a'` all. Nil at the end.
function Reader:read(count)
  if count ~= nil then check_count(count) end
  return read(self, self.what, count)
end

--- The next line, without its end; nil at the end.
function Reader:line()
  return internal.next_line(self, self.what)
end

--- Iterates over the lines.
function Reader:lines()
  return function() return self:line() end
end
