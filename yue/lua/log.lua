-- The log of the program, and values in readable form.
local core, yue, internal = ...
local type, tostring, select, pairs, next, pcall, getmetatable, setmetatable =
  type, tostring, select, pairs, next, pcall, getmetatable, setmetatable
local concat, sort, ipairs = table.concat, table.sort, ipairs

-- -- Values ----------------------------------------------------------------------------------------------------------

--- The text of a value whose contents are not shown; nil for the other tables.
local function leaf_text(value)
  if type(value) == 'string' then
    -- Control characters would act on a terminal: %q escapes those of ASCII, and leaves U+0080 to U+009F.
    local quoted = ('%q'):format(value):gsub('\\\n', '\\n')
    return (quoted:gsub('\194([\128-\159])', function(byte) return '\\194\\' .. byte:byte() end))
  end
  if type(value) ~= 'table' then return tostring(value) end
  local meta = getmetatable(value)
  if internal.is_error(value) or (type(meta) == 'table' and meta.__tostring) or type(meta) == 'string' then
    return tostring(value)
  end
end
internal.leaf_text = leaf_text

--- The beginning of an item with this key, which is a leaf or has the text `text`.
local function key_text(key, text)
  return (type(key) == 'string' and key:match('^[%a_][%w_]*$') or '[' .. text .. ']') .. ' = '
end
internal.key_text = key_text

--- Formats a value as text; tables with their contents: over several lines, or, without `indent`, on one.
local function pretty(value, indent, seen)
  local leaf = leaf_text(value)
  if leaf then return leaf end
  if seen[value] then return '<the table above>' end
  if next(value) == nil then return '{}' end
  seen[value] = true
  local items, count = {}, #value
  local inner = indent and indent .. '  '
  for i = 1, count do items[i] = (inner or '') .. pretty(value[i], inner, seen) end
  local keys = {}
  for key in pairs(value) do
    if not (type(key) == 'number' and key >= 1 and key <= count and key % 1 == 0) then keys[#keys + 1] = key end
  end
  sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  for _, key in ipairs(keys) do
    items[#items + 1] = (inner or '') .. key_text(key, pretty(key, inner, seen)) .. pretty(value[key], inner, seen)
  end
  seen[value] = nil
  if not indent then return '{ ' .. concat(items, ', ') .. ' }' end
  return '{\n' .. concat(items, ',\n') .. '\n' .. indent .. '}'
end

--- Prints values in readable form; tables with all their contents.
function yue.pp(...)
  local parts = {}
  for i = 1, select('#', ...) do parts[i] = pretty((select(i, ...)), '', {}) end
  io.stdout:write(concat(parts, '\t') .. '\n')
end

-- -- Entries ---------------------------------------------------------------------------------------------------------

--- Writes an entry of yue itself.
function internal.log(level, text)
  core.log(level, text, '', '')
end

local function part(text) return #text .. ':' .. text end

--- Writes an entry about a failure: `what` has failed, with the error `e`. `facts` are texts that are fields of the
--- entry's JSON, by name. If strangers can cause such entries at will, `write` is `core.log_limited`.
function internal.log_failure(level, what, e, facts, write)
  local text, message = what .. ': ' .. internal.report(e), what .. ': ' .. internal.to_text(e)
  -- Under `yue dev`, pages show it, and repeated ones are counted.
  local is_noted = level == 'error' and core.development_script
  if is_noted and not core.development_note(internal.report(e), text, message) then return end
  if not core.is_logged(level) then return end
  local details = ''
  for name, text in pairs(facts or {}) do details = details .. 'd' .. part(name) .. part(text) end
  if internal.is_error(e) then
    details = details .. 'd' .. part('error') .. part(internal.to_text(e.type))
    if e.bt then details = details .. 'd' .. part('traceback') .. part((internal.to_text(e.bt):gsub('^%s+', ''))) end
  end
  write = write or core.log
  write(level, text, details, message)
end

--- A number as JSON; nil for those that JSON lacks.
local function json_number(value)
  if value ~= value or value == math.huge or value == -math.huge then return nil end
  if value % 1 == 0 and value < 2 ^ 53 and value > -2 ^ 53 then return ('%d'):format(value) end
  return ('%.17g'):format(value)
end

--- A field as `core.log` takes it: its kind, and its name, its text and perhaps its JSON, each after its length.
local function field(name, value)
  local kind = type(value)
  if kind == 'string' then return 't' .. part(name) .. part(value) end
  local json
  if kind == 'boolean' then
    json = tostring(value)
  elseif kind == 'number' then
    json = json_number(value)
  elseif value == yue.null then
    json = 'null'
  elseif kind == 'table' and not internal.is_error(value) then
    local ok, encoded = pcall(core.json_encode, value, '', true)
    if ok then json = encoded end
  end
  local text = value == yue.null and 'null' or pretty(value, nil, {})
  if json then return 'j' .. part(name) .. part(text) .. part(json) end
  return 't' .. part(name) .. part(text)
end

--- The encoded fields of a table, by name, together with those of `known` that it does not replace.
local function encode_fields(known, fields)
  if type(fields) ~= 'table' then
    internal.argument_error(
      'yue.log.with takes a table of fields, such as { player = 7 }, not ' .. internal.describe_value(fields))
  end
  local all = {}
  for name, encoded in pairs(known) do all[name] = encoded end
  for name, value in pairs(fields) do
    if type(name) ~= 'string' then
      internal.argument_error('yue.log.with: the names of fields are strings, not ' .. internal.describe_value(name))
    end
    all[name] = field(name, value)
  end
  return all
end

local function join_fields(encoded)
  local names = {}
  for name in pairs(encoded) do names[#names + 1] = name end
  sort(names)
  for i, name in ipairs(names) do names[i] = encoded[name] end
  return concat(names)
end

local function write(level, fields, ...)
  if not core.is_logged(level) then return end
  local parts = {}
  for i = 1, select('#', ...) do
    local value = (select(i, ...))
    parts[i] = type(value) == 'string' and value or pretty(value, nil, {})
  end
  core.log(level, concat(parts, ' '), fields, '')
end

local LEVELS = { 'debug', 'info', 'warn', 'error' }

--- A logger whose entries have these encoded fields.
local function new_logger(encoded)
  local logger, fields = {}, join_fields(encoded)
  for _, level in ipairs(LEVELS) do
    logger[level] = function(...) write(level, fields, ...) end
  end
  --- Returns a logger whose entries also have these fields.
  function logger.with(more) return new_logger(encode_fields(encoded, more)) end
  return logger
end

yue.log = new_logger {}

local function change(name, set, value)
  if value == nil then return set '' end
  if type(value) ~= 'string' or value == '' then
    internal.argument_error(('%s takes a name, not %s'):format(name, internal.describe_value(value)))
  end
  return set(value)
end

--- Returns the minimum level of the process's log; with `name`, sets it and returns the previous one.
function yue.log.level(name)
  return change('yue.log.level', core.log_level, name)
end

--- Returns the form of the process's log, `text` or `json`; with `name`, sets it and returns the previous one.
function yue.log.format(name)
  return change('yue.log.format', core.log_format, name)
end
