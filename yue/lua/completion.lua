-- Completion of a line at the console: names of globals, of fields, of methods after `:`, and of procedures of a peer.
-- It runs none of the program's code: metamethods are not called, and tables are read raw.
local core, yue, internal = ...
local type, next, rawget, pcall, ipairs = type, next, rawget, pcall, ipairs
local concat, sort, debug_getmetatable = table.concat, table.sort, debug.getmetatable

-- Candidates; keys that are looked at; tables behind `__index`.
local CANDIDATES_MAX, KEYS_MAX, CHAIN_MAX = 200, 10000, 10
-- Seconds that a peer has to describe itself, and for which the description is kept.
local DESCRIBE_TIME, DESCRIPTION_AGE = 1, 10

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return then true
  until while]]):gmatch('%a+') do
  KEYWORDS[word] = true
end

-- -- The path before the cursor --------------------------------------------------------------------------------------

--- Splits `a.b['c'][1].na` into the names of a path, how the last name follows (`.`, `:`, or nothing), and its
--- beginning.
local function parse(text)
  local before, word = text:match('^(.-)([%a_\128-\255]?[%w_\128-\255]*)$')
  if word:find('^%d') then return nil end
  local separator = before:match('[%.:]$')
  -- `..` is an operator, and `1.` a number.
  if not separator or before:find('%.%.$') then return {}, nil, word end
  before = before:sub(1, -2)
  local path = {}
  while true do
    local rest, key = before:match('^(.*)%[%s*(%d+)%s*%]$')
    if rest then
      key = tonumber(key)
    else
      local _
      rest, _, key = before:match('^(.*)%[%s*(["\'])([^"\'\\]*)%2%s*%]$')
    end
    if rest then
      table.insert(path, 1, key)
      before = rest
    else
      rest, key = before:match('^(.-)([%a_][%w_]*)$')
      if not rest or KEYWORDS[key] then return nil end
      table.insert(path, 1, key)
      if not rest:find('%.$') or rest:find('%.%.$') then return path, separator, word end
      before = rest:sub(1, -2)
    end
  end
end

-- -- Values ----------------------------------------------------------------------------------------------------------

--- The table behind `__index`, if it is one.
local function behind(value)
  local meta = debug_getmetatable(value)
  local index = type(meta) == 'table' and rawget(meta, '__index')
  return type(index) == 'table' and index or nil
end

--- The tables in which a field of the value is looked up.
local function layers_of(value)
  local layers = {}
  local at = type(value) == 'table' and value or behind(value)
  while type(at) == 'table' and #layers < CHAIN_MAX do
    layers[#layers + 1] = at
    at = behind(at)
  end
  return layers
end

local function field_of(value, key)
  for _, layer in ipairs(layers_of(value)) do
    local found = rawget(layer, key)
    if found ~= nil then return found end
  end
end

--- The connection of procedures of a peer, and their path there.
local function remote_of(value)
  if type(value) ~= 'table' then return nil end
  local meta, connection = debug_getmetatable(value), rawget(value, 0)
  if type(meta) ~= 'table' or type(connection) ~= 'table' then return nil end
  local kind = rawget(meta, '__metatable')
  if kind ~= 'remote procedure' and kind ~= 'remote procedures' or rawget(value, 5) then return nil end
  return connection, rawget(value, 3)
end

-- -- Procedures of peers ---------------------------------------------------------------------------------------------

-- By connection: the names, and when they were asked for.
local descriptions = setmetatable({}, { __mode = 'k' })

local function procedures_of(connection)
  local known = descriptions[connection]
  if known and yue.now() - known.at < DESCRIPTION_AGE then return known.names end
  if not core.connected(rawget(connection, '_id')) then return {} end
  local ok, functions = pcall(yue.timeout, DESCRIBE_TIME, internal.Connection.describe, connection)
  local names = {}
  for _, one in ipairs(ok and functions or {}) do names[#names + 1] = one.name end
  descriptions[connection] = { names = names, at = yue.now() }
  return names
end

--- The next names of the procedures whose path begins so.
local function add_procedures(add, connection, path, word)
  local prefix = path == '' and '' or path .. '.'
  local how = word:match('^async_') or word:match('^timed_') or word:match('^notify_') or ''
  for _, name in ipairs(procedures_of(connection)) do
    if name:sub(1, #prefix) == prefix then add(how .. name:sub(#prefix + 1):match('^[^.]*')) end
  end
end

-- -- The whole -------------------------------------------------------------------------------------------------------

local function new_collector(word)
  local found, known, looked = {}, {}, 0
  local function add(name)
    local hidden = name:find('^_') and not word:find('^_')
    if hidden or known[name] or #found >= CANDIDATES_MAX or name:sub(1, #word) ~= word then return end
    if KEYWORDS[name] and word == '' then return end
    known[name], found[#found + 1] = true, name
  end
  local function add_fields(value, functions_only)
    for _, layer in ipairs(layers_of(value)) do
      for key, field in next, layer do
        looked = looked + 1
        if looked > KEYS_MAX then return end
        local fits = not functions_only or type(field) == 'function'
        if fits and type(key) == 'string' and key:find('^[%a_][%w_]*$') and not KEYWORDS[key] then add(key) end
      end
    end
  end
  return found, add, add_fields
end

--- Follows the path; returns the value, or the connection of a peer and the path there.
local function follow(environment, path)
  local value = field_of(environment, path[1])
  for i = 2, #path + 1 do
    local connection, remote = remote_of(value)
    if connection then
      for j = i, #path do remote = (remote == '' and '' or remote .. '.') .. internal.to_text(path[j]) end
      return nil, connection, remote
    end
    if i > #path or value == nil then return value end
    value = field_of(value, path[i])
  end
end

--- Completes the end of a line. Returns lines: the byte at which the completed word begins, from 0, and the candidates.
function internal.complete_line(environment, text)
  local path, separator, word = parse(text)
  if not path then return tostring(#text) end
  local found, add, add_fields = new_collector(word)
  if not separator then
    add_fields(environment)
    for keyword in next, KEYWORDS do add(keyword) end
  else
    local value, connection, remote = follow(environment, path)
    if connection then
      if separator == '.' then add_procedures(add, connection, remote, word) end
    elseif value ~= nil then
      add_fields(value, separator == ':')
    end
  end
  sort(found)
  table.insert(found, 1, tostring(#text - #word))
  return concat(found, '\n')
end
