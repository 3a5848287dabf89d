-- Namespaces: the functions that a connection may call.
--
-- A namespace is a list of layers (tables), searched from the last to the first; a table given as symbols is a layer
-- itself, so a change of the table affects the next call. The lookup of a call is native (and raw, so that a metatable
-- cannot expose Lua's globals); this file makes the layers.
local core, yue, internal = ...
local setmetatable, type, rawget, rawequal, pairs, ipairs = setmetatable, type, rawget, rawequal, pairs, ipairs

local loaded, globals = package.loaded, _G
local LIBRARIES = { 'bit', 'coroutine', 'debug', 'ffi', 'io', 'jit', 'math', 'os', 'package', 'string', 'table', 'yue' }

--- The functions of a namespace that yue calls at the events of a connection's life, by event.
local CALLBACKS = { open = '__open', accept = '__accept', close = '__close', timeout = '__timeout' }
internal.callbacks = CALLBACKS

-- Names that begin with two underscores: yue's, and those that Lua uses (a class may be given as symbols).
local KNOWN = { __gc = true, __mode = true, __metatable = true, __tostring = true, __concat = true, __name = true,
  __index = true, __newindex = true, __call = true, __len = true, __eq = true, __lt = true, __le = true,
  __add = true, __sub = true, __mul = true, __div = true, __mod = true, __pow = true, __unm = true,
  __pairs = true, __ipairs = true }
for _, name in pairs(CALLBACKS) do KNOWN[name] = true end

--- Raises if the name can only be a misspelt callback: nobody could ever call it, and a connection that `__accept`
--- should guard would be open to everyone.
local function check_name(name)
  if type(name) ~= 'string' or name:sub(1, 2) ~= '__' or KNOWN[name] then return end
  local names = {}
  for _, known in pairs(CALLBACKS) do names[#names + 1] = known end
  table.sort(names)
  internal.argument_error(
    ('symbols: %s is not a callback of a connection; the callbacks are %s'):format(name, table.concat(names, ', '))
  )
end

local function check_names(symbols)
  for name in pairs(symbols) do check_name(name) end
end

--- Whether the value is a loaded module, or the table of all globals. The lookup of a call does not enter such a table
--- when it finds it in another one.
local function is_module(value)
  if type(value) ~= 'table' then return false end
  for _, module in pairs(loaded) do
    if rawequal(module, value) then return true end
  end
  return rawequal(value, globals)
end
internal.is_module = is_module

--- Raises if a table given as symbols would let strangers call Lua's own libraries. A module of the program may be
--- given: that is intended.
local function check_no_library(symbols)
  local name = rawequal(symbols, globals) and '_G'
  for _, library in ipairs(LIBRARIES) do
    if rawequal(symbols, loaded[library]) then name = library end
  end
  if name then
    internal.argument_error('symbols: ' .. name .. ' cannot be a namespace: anybody could call what is in it')
  end
end

--- Runs a file with its own environment: its globals become a layer, reads fall back to `_G`.
local function load_file(path)
  local chunk, message = loadfile(path)
  if not chunk then error(yue.errors.ArgumentError.new('cannot load the symbols: ' .. message), 0) end
  local layer = setmetatable({}, { __index = _G })
  setfenv(chunk, layer)
  chunk()
  check_names(layer)
  for name, value in pairs(layer) do
    if type(name) == 'string' and is_module(value) then core.warn_of_module(name) end
  end
  return layer
end

local function looks_like_list(symbols)
  if #symbols == 0 then return false end
  for key in pairs(symbols) do
    if type(key) ~= 'number' then return false end
  end
  return true
end

local LISTS_MAX = 16 -- lists inside of lists

local function add(layers, symbols, depth)
  local kind = type(symbols)
  if kind == 'string' then
    layers[#layers + 1] = load_file(symbols)
  elseif kind ~= 'table' then
    internal.argument_error('symbols are a table of functions, a file name, or a list of these, not a ' .. kind)
  elseif looks_like_list(symbols) then
    if depth > LISTS_MAX then internal.argument_error('symbols: too many lists inside of each other') end
    for i = 1, #symbols do add(layers, symbols[i], depth + 1) end
  else
    check_no_library(symbols)
    check_names(symbols)
    layers[#layers + 1] = symbols
  end
end

--- A namespace as programs read and write it.
local function new_view(layers)
  return setmetatable({}, {
    __index = function(_, key)
      for i = #layers, 1, -1 do
        local value = rawget(layers[i], key)
        if value ~= nil then return value end
      end
    end,
    __newindex = function(_, key, value)
      check_name(key)
      layers[#layers][key] = value
      -- A removed name is removed from every layer; otherwise the one below would show.
      if value == nil then
        for i = 1, #layers do layers[i][key] = nil end
      end
    end,
    __tostring = function() return 'namespace' end,
    __metatable = 'namespace',
  })
end

--- Makes a namespace of symbols (nil: an empty one): `{ layers, view }`; programs read and write the view.
function internal.new_namespace(symbols)
  local layers = {}
  if symbols ~= nil then add(layers, symbols, 1) end
  if #layers == 0 then layers[1] = {} end
  return { layers = layers, view = new_view(layers) }
end

--- Adds symbols to a namespace that may be in use.
function internal.import(namespace, symbols)
  add(namespace.layers, symbols, 1)
end
