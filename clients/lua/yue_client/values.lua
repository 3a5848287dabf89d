-- Errors and values: how they travel, and where a message ends. The codec is lua-MessagePack.
local mp = require 'MessagePack'

local V = {}
local unpack, floor, char, concat = unpack or table.unpack, math.floor, string.char, table.concat

local NESTING_MAX = 128

-- Errors --------------------------------------------------------------------------------------------------------------

local errors, by_code = {}, {}
local Error = {}
Error.__index = Error

function Error:__tostring() return self.type .. ': ' .. self.msg end
function Error.__concat(a, b) return tostring(a) .. tostring(b) end

function Error:is_a(name)
  local kind = errors[self.type]
  while kind do
    if kind.type == name then return true end
    kind = kind.parent
  end
  return name == 'Error'
end

local function define(code, name, parent)
  local kind = { code = code, type = name, parent = errors[parent] }
  function kind.new(msg, value, retryable)
    local e = { type = name, code = code, msg = tostring(msg), value = value, retryable = retryable or false }
    return setmetatable(e, Error)
  end
  errors[name], by_code[code] = kind, kind
end

for _, kind in ipairs {
  { -100, 'RPCError' }, { -101, 'TimeoutError', 'RPCError' }, { -102, 'CancelledError', 'RPCError' },
  { -103, 'RuntimeError', 'RPCError' }, { -200, 'ClientError', 'RPCError' },
  { -210, 'TransportError', 'ClientError' }, { -211, 'NetworkUnreachableError', 'TransportError' },
  { -212, 'ConnectionRefusedError', 'TransportError' }, { -213, 'ConnectionTimeoutError', 'TransportError' },
  { -214, 'ConnectionLostError', 'TransportError' }, { -215, 'AddressError', 'TransportError' },
  { -216, 'TLSError', 'TransportError' }, { -220, 'MessageRefusedError', 'ClientError' },
  { -221, 'MessageTooLargeError', 'MessageRefusedError' }, { -230, 'CallError', 'ClientError' },
  { -231, 'NoMethodError', 'CallError' }, { -232, 'ArgumentError', 'CallError' },
  { -233, 'NotGrantedError', 'CallError' }, { -300, 'ServerError', 'RPCError' },
  { -301, 'ServerBusyError', 'ServerError' }, { -302, 'QueueFullError', 'ServerError' },
} do define(unpack(kind)) end

local function is_error(value) return getmetatable(value) == Error end
local function raise(name, msg, retryable) error(errors[name].new(msg, nil, retryable), 0) end

-- The error object for an error that a peer sent, of any shape.
local function error_from_wire(e)
  if type(e) == 'string' then return errors.RPCError.new(e) end
  if type(e) == 'table' and type(e[1]) == 'number' and type(e[2]) == 'string' and #e <= 3 then
    local data = type(e[3]) == 'table' and e[3] or {}
    local kind = errors[data.type] or by_code[e[1]] or errors.RPCError
    local made = kind.new(e[2], data.value, data.retryable == true)
    made.bt = type(data.traceback) == 'string' and data.traceback or nil
    return made
  end
  local msg = type(e) == 'table' and (e.message or e.msg)
  if type(msg) ~= 'string' then msg = 'the peer answered with an error of an unknown form' end
  return errors.RPCError.new(msg, e)
end

local function error_to_wire(e, traceback)
  local made = e
  if not is_error(e) then
    local is_text = type(e) == 'string'
    made = errors.RuntimeError.new(is_text and e or 'a ' .. type(e) .. ' was raised', not is_text and e or nil)
  end
  local data = { type = made.type, retryable = made.retryable or nil, value = made.value, traceback = traceback }
  return { made.code, made.msg:sub(1, 65536), data }
end

-- Values --------------------------------------------------------------------------------------------------------------

local Array, Map, Ext = {}, {}, {}
local null = setmetatable({}, { __tostring = function() return 'null' end })
local procedures = setmetatable({}, { __mode = 'k' }) -- Proxies of names at the peer.
local remotes = setmetatable({}, { __mode = 'k' })    -- Functions of peers: the record of each.

-- Marks a table, so that an empty one, or one with holes, is an array of `n` or a map on the wire.
local function mark_array(t, n) return setmetatable(t, { kind = Array, n = n }) end
local function mark_map(t) return setmetatable(t, { kind = Map }) end

local CONTINUATION = { ['\194-\223'] = 1, ['\224-\239'] = 2, ['\240-\244'] = 3 }

local function is_utf8(s)
  local at = s:find '[\128-\255]'
  while at do
    local rest
    for class, count in pairs(CONTINUATION) do
      if s:find('^[' .. class .. ']' .. ('[\128-\191]'):rep(count), at) then rest = count end
    end
    local first, second = s:byte(at, at + 1)
    -- Longer forms than needed, surrogates, and what is beyond Unicode.
    local bad = first == 224 and second < 160 or first == 237 and second > 159 or first == 240 and second < 144
    if not rest or bad or first == 244 and second > 143 then return false end
    at = s:find('[\128-\255]', at + rest + 1)
  end
  return true
end

local function put_header(out, n, fix, code)
  if n < 16 then out[#out + 1] = char(fix + n)
  elseif n < 65536 then out[#out + 1] = char(code, floor(n / 256), n % 256)
  else
    out[#out + 1] = char(code + 1, floor(n / 16777216), floor(n / 65536) % 256, floor(n / 256) % 256, n % 256)
  end
end

-- The form of a table: the number of elements of an array; or nil and the number of pairs.
local function form(t)
  local mark = getmetatable(t)
  local pairs_count, highest, is_map = 0, 0, mark and mark.kind == Map
  for k in next, t do
    pairs_count = pairs_count + 1
    if type(k) ~= 'number' or k < 1 or k ~= floor(k) then is_map = true
    elseif k > highest then highest = k end
  end
  if is_map then return nil, pairs_count end
  if mark and mark.kind == Array then return mark.n or highest end
  if highest == pairs_count then return highest end
  return nil, pairs_count
end

-- Appends a value. A function is appended as a table, which becomes a reference when the message leaves: its id is
-- valid for one link only.
local function encode(out, v, path, depth, above)
  local kind = type(v)
  if kind == 'string' then mp.packers[is_utf8(v) and '_string' or 'binary'](out, v)
  elseif kind == 'nil' or kind == 'boolean' or kind == 'number' then mp.packers[kind](out, v)
  elseif kind == 'function' or remotes[v] then out[#out + 1] = { v }
  elseif v == null then mp.packers['nil'](out)
  elseif kind ~= 'table' or procedures[v] then
    local hint = procedures[v] and 'a remote procedure; pass a function that calls it' or 'a ' .. kind
    raise('ArgumentError', path .. ' cannot be sent: it is ' .. hint)
  elseif getmetatable(v) == Ext then mp.packers[#v.data == 8 and 'fixext8' or 'ext'](out, v.code, v.data)
  else
    if above[v] then raise('ArgumentError', path .. ' cannot be sent: it contains itself') end
    if depth >= NESTING_MAX then raise('ArgumentError', path .. ' cannot be sent: it is nested too deeply') end
    above[v] = true
    local count, pairs_count = form(v)
    if count then
      put_header(out, count, 0x90, 0xdc)
      for i = 1, count do encode(out, v[i], path .. '[' .. i .. ']', depth + 1, above) end
    else
      put_header(out, pairs_count, 0x80, 0xde)
      for k, item in next, v do
        encode(out, k, 'a key of ' .. path, depth + 1, above)
        encode(out, item, path .. '.' .. tostring(k), depth + 1, above)
      end
    end
    above[v] = nil
  end
end

-- Values, encoded as an array: a list of texts and of functions, and the bytes.
local function encode_list(what, n, ...)
  local out, bytes = {}, 0
  put_header(out, n, 0x90, 0xdc)
  for i = 1, n do encode(out, (select(i, ...)), what .. '[' .. i .. ']', 1, {}) end
  for _, piece in ipairs(out) do bytes = bytes + (type(piece) == 'string' and #piece or 10) end
  return out, bytes
end

local function plain(v)
  local out = {}
  encode(out, v, 'value', 0, {})
  return concat(out)
end

local function big_endian(n, count)
  local bytes = {}
  for i = count, 1, -1 do
    bytes[i] = n % 256
    n = floor(n / 256)
  end
  return char(unpack(bytes))
end

local function number_of(bytes)
  local n = 0
  for i = 1, #bytes do n = n * 256 + bytes:byte(i) end
  return n
end

-- Framing -------------------------------------------------------------------------------------------------------------

-- What follows the first byte of a value: bytes of its length, and fixed bytes; `items` for each counted one.
local FORMS = {}
for byte = 0, 255 do FORMS[byte] = { 0, 0 } end
for byte = 0x80, 0x8f do FORMS[byte] = { 0, 0, items = 2 * (byte - 0x80) } end
for byte = 0x90, 0x9f do FORMS[byte] = { 0, 0, items = byte - 0x90 } end
for byte = 0xa0, 0xbf do FORMS[byte] = { 0, byte - 0xa0 } end
for i = 0, 2 do
  FORMS[0xc4 + i], FORMS[0xd9 + i], FORMS[0xc7 + i] = { 2 ^ i, 0 }, { 2 ^ i, 0 }, { 2 ^ i, 1 }
end
for i = 0, 3 do FORMS[0xcc + i], FORMS[0xd0 + i] = { 0, 2 ^ i }, { 0, 2 ^ i } end
for i = 0, 4 do FORMS[0xd4 + i] = { 0, 1 + 2 ^ i } end
FORMS[0xca], FORMS[0xcb], FORMS[0xc1] = { 0, 4 }, { 0, 8 }, false
for i = 0, 1 do FORMS[0xdc + i], FORMS[0xde + i] = { 2 * 2 ^ i, 0, each = 1 }, { 2 * 2 ^ i, 0, each = 2 } end

-- Finds the end of a message that begins at state.start. A state continues where the text ended. Returns the position
-- after it, or nil and the position that the text must reach; or raises a text.
--
-- Only whole messages are decoded: then no length in them can exceed what was received.
local function scan(state, s, limit)
  local left = state.left
  while #left > 0 do
    local at = state.at
    local byte = s:byte(at)
    if not byte then return nil, at end
    local shape = FORMS[byte]
    if not shape then error('the byte ' .. byte .. ' begins no value', 0) end
    local width, size, items = shape[1], shape[2], shape.items
    if width > 0 then
      if #s < at + width then return nil, at + width end
      local count = number_of(s:sub(at + 1, at + width))
      if shape.each then items = count * shape.each else size = size + count end
    end
    local last = at + width + size + (items or 0)
    if last >= state.start + limit then error('a message has more than ' .. limit .. ' bytes', 0) end
    if #s < at + width + size then return nil, at + width + size end
    state.at = at + 1 + width + size
    left[#left] = left[#left] - 1
    if items and items > 0 then
      -- A message adds two levels to its values.
      if #left > NESTING_MAX + 2 then error('a message is nested too deeply', 0) end
      left[#left + 1] = items
    else
      while #left > 0 and left[#left] == 0 do left[#left] = nil end
    end
  end
  return state.at
end

local function skip(s, at) return scan({ start = at, at = at, left = { 1 } }, s, #s) end

local function underflow() error('a value has no end', 0) end

-- Reads the header of an array; nil of any other value.
local function array_count(cursor)
  local byte = cursor.s:byte(cursor.i)
  local width = byte == 0xdc and 2 or byte == 0xdd and 4 or 0
  if width == 0 and (not byte or byte < 0x90 or byte > 0x9f) then return nil end
  local count = width == 0 and byte - 0x90 or number_of(cursor.s:sub(cursor.i + 1, cursor.i + width))
  cursor.i = cursor.i + 1 + width
  return count
end

V.errors, V.is_error, V.raise = errors, is_error, raise
V.error_from_wire, V.error_to_wire = error_from_wire, error_to_wire
V.null, V.array, V.map, V.Ext, V.procedures, V.remotes = null, mark_array, mark_map, Ext, procedures, remotes
V.encode, V.encode_list, V.plain, V.put_header = encode, encode_list, plain, put_header
V.big_endian, V.number_of, V.is_utf8 = big_endian, number_of, is_utf8
V.scan, V.skip, V.array_count, V.underflow = scan, skip, array_count, underflow

return V
