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

internal.check_names = check_names

--- Runs a file with its own environment: its globals become a layer, reads fall back to `_G`. Returns the file's node:
--- see `reload.lua`.
function internal.run_symbols(path)
  local chunk, message, hash = internal.compile(path)
  if not chunk then error(yue.errors.ArgumentError.new('cannot load the symbols: ' .. message), 0) end
  local layer = setmetatable({}, { __index = _G })
  setfenv(chunk, layer)
  local node = internal.begin_symbols(chunk, path, hash)
  chunk()
  internal.end_symbols(chunk)
  check_names(layer)
  for name, value in pairs(layer) do
    if type(name) == 'string' and is_module(value) then core.warn_of_module(name) end
  end
  node.layer = layer
  return node
end

local function looks_like_list(symbols)
  if #symbols == 0 then return false end
  for key in pairs(symbols) do
    if type(key) ~= 'number' then return false end
  end
  return true
end

local LISTS_MAX = 16 -- lists inside of lists

local function add(namespace, symbols, depth)
  local kind, layers = type(symbols), namespace.layers
  if kind == 'string' then
    local node = internal.run_symbols(symbols)
    namespace.files[#namespace.files + 1] = node
    layers[#layers + 1] = node.layer
  elseif kind ~= 'table' then
    internal.argument_error('symbols are a table of functions, a file name, or a list of these, not a ' .. kind)
  elseif looks_like_list(symbols) then
    if depth > LISTS_MAX then internal.argument_error('symbols: too many lists inside of each other') end
    for i = 1, #symbols do add(namespace, symbols[i], depth + 1) end
  else
    check_no_library(symbols)
    check_names(symbols)
    if is_module(symbols) then namespace.has_module = true end
    layers[#layers + 1] = symbols
  end
end

-- The value of a name that the program has removed from a file's layer.
local REMOVED = {}

--- Records that the program has set a name in the layer of a file: a new version of the file does not undo that.
local function note_assigned(namespace, layer, key, value)
  for _, node in ipairs(namespace.files) do
    if rawequal(node.layer, layer) then node.assigned[key] = value == nil and REMOVED or value end
  end
end

--- Sets the names in the layer of a new version of a file that the program has set in the old one's.
function internal.keep_assigned(old, new)
  new.assigned = old.assigned
  for key, value in pairs(old.assigned) do
    if value == REMOVED then new.layer[key] = nil else new.layer[key] = value end
  end
end

--- A namespace as programs read and write it.
local function new_view(namespace)
  local layers = namespace.layers
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
      note_assigned(namespace, layers[#layers], key, value)
      -- A removed name is removed from every layer; otherwise the one below would show.
      if value == nil then
        for i = 1, #layers do
          layers[i][key] = nil
          note_assigned(namespace, layers[i], key, nil)
        end
      end
    end,
    __tostring = function() return 'namespace' end,
    __metatable = 'namespace',
  })
end

--- The namespaces that a reload may change: those with files and modules.
local namespaces = setmetatable({}, { __mode = 'k' })
internal.namespaces = namespaces

local function register(namespace)
  if namespaces[namespace] or not (#namespace.files > 0 or namespace.has_module) then return end
  namespaces[namespace] = true
  -- Rust may refer to the layers alone.
  setmetatable(namespace.layers, { namespace = namespace })
end

--- A listener or connection has ended, and its namespace with it.
function internal.end_namespace(namespace)
  namespaces[namespace] = nil
end

--- Makes a namespace of symbols (nil: an empty one): `{ layers, view, files }`; programs read and write the view, and
--- `files` are the nodes of its files.
function internal.new_namespace(symbols)
  local namespace = { layers = {}, files = {}, has_module = false }
  if symbols ~= nil then add(namespace, symbols, 1) end
  if #namespace.layers == 0 then namespace.layers[1] = {} end
  namespace.view = new_view(namespace)
  register(namespace)
  return namespace
end

--- Adds symbols to a namespace that may be in use.
function internal.import(namespace, symbols)
  add(namespace, symbols, 1)
  register(namespace)
end
