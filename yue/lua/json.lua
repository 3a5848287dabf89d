-- JSON, msgpack and C data.
local core, yue, internal = ...
local type = type
local json_encode, json_decode = core.json_encode, core.json_decode

-- -- JSON ----------------------------------------------------------------------------------------------------------

-- Deeper steps are hardly meant.
local INDENT_MAX = 16

local function check_string(name, value)
  if type(value) ~= 'string' then
    internal.argument_error(('%s takes a string, not %s'):format(name, internal.describe_value(value)))
  end
end
internal.check_string = check_string

local function indent_of(indent)
  if indent == nil or indent == false then return '' end
  if type(indent) == 'number' and indent >= 0 and indent <= INDENT_MAX and indent % 1 == 0 then
    return (' '):rep(indent)
  end
  if type(indent) == 'string' and #indent <= INDENT_MAX and not indent:find '[^ \t]' then return indent end
  internal.argument_error(
    ('yue.json.encode: indent is a number of spaces up to %d, or a string of spaces and tabs'):format(INDENT_MAX))
end

local OPTIONS = { indent = true, sort = true }

local function encode_styled(value, options)
  if type(options) ~= 'table' then
    internal.argument_error('yue.json.encode takes a value and a table of options: indent, sort')
  end
  for name in pairs(options) do
    if not OPTIONS[name] then
      internal.argument_error(('yue.json.encode has no option %s; it has: indent, sort'):format(internal.to_text(name)))
    end
  end
  if options.sort ~= nil and type(options.sort) ~= 'boolean' then
    internal.argument_error('yue.json.encode: sort is true or false')
  end
  return json_encode(value, indent_of(options.indent), options.sort)
end

yue.json = {}

--- The JSON text of a value. Options: `indent` (spaces for each level, or the text itself), `sort` (the keys).
function yue.json.encode(value, options)
  if options ~= nil then return encode_styled(value, options) end
  return json_encode(value, '')
end

--- The value of a JSON text. An error names the line and column.
function yue.json.decode(text)
  if type(text) ~= 'string' then check_string('yue.json.decode', text) end
  return json_decode(text)
end

-- -- Msgpack and C data --------------------------------------------------------------------------------------------

yue.msgpack = {}

--- The values as msgpack, one after the other.
yue.msgpack.encode = core.msgpack_encode

--- All values in the bytes.
function yue.msgpack.decode(bytes)
  check_string('yue.msgpack.decode', bytes)
  return core.msgpack_decode(bytes)
end

yue.ffi = require 'ffi'
