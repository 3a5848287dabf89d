-- States: tables that outlive the code which uses them, because a reload of that code finds them again.
local core, yue, internal = ...
local type, pairs, next, rawset, xpcall, error, getmetatable, setmetatable =
  type, pairs, next, rawset, xpcall, error, debug.getmetatable, debug.setmetatable
local wrap = internal.wrap

local states = {} -- by name: { value, version }
local pending = {} -- names whose init runs

local OPTIONS = { version = true, migrate = true }

local function check_options(options)
  options = internal.check_options('yue.state', options, OPTIONS)
  local version, migrate = options.version, options.migrate
  if version ~= nil and type(version) ~= 'number' and type(version) ~= 'string' then
    internal.argument_error(
      'yue.state: version is a number or a string, not ' .. internal.describe_value(version))
  end
  if migrate ~= nil and not internal.is_callable(migrate) then
    internal.argument_error('yue.state: migrate is a function(state, old_version), not '
      .. internal.describe_value(migrate))
  end
  if migrate ~= nil and version == nil then
    internal.argument_error('yue.state: migrate needs a version: it runs when the version differs')
  end
  return version, migrate
end

-- -- Snapshots: what a migration that fails has to restore -----------------------------------------------------------

--- The contents of the table and of all tables in it, by table.
local function snapshot(root)
  local saved, list, count = {}, { root }, 1
  local at = 1
  while at <= count do
    local t = list[at]
    at = at + 1
    if not saved[t] then
      local copy = {}
      saved[t] = { copy, getmetatable(t) }
      for key, value in next, t do
        copy[key] = value
        if type(value) == 'table' then count = count + 1 list[count] = value end
        if type(key) == 'table' then count = count + 1 list[count] = key end
      end
    end
  end
  return saved
end

--- Makes `from` the contents of the table.
local function refill(t, from)
  for key in next, t do
    if from[key] == nil then rawset(t, key, nil) end
  end
  for key, value in next, from do rawset(t, key, value) end
end

local function restore(saved)
  for t, contents in pairs(saved) do
    refill(t, contents[1])
    setmetatable(t, contents[2])
  end
end

-- -- States ----------------------------------------------------------------------------------------------------------

local function create(name, init, version)
  if pending[name] then
    error(yue.errors.RuntimeError.new(
      ('yue.state: the init of %q runs already; it must not wait, nor ask for its own state'):format(name)), 0)
  end
  pending[name] = true
  local ok, value = true, init
  if internal.is_callable(init) then ok, value = xpcall(init, wrap) end
  pending[name] = nil
  if not ok then error(value, 0) end
  if value == nil then value = {} end
  if type(value) ~= 'table' then
    internal.argument_error(
      ('yue.state: the init of %q returns a table, not %s'):format(name, internal.describe_value(value)))
  end
  states[name] = { value = value, version = version }
  internal.undo_with(function() states[name] = nil end)
  return value
end

local function migrate_state(name, state, version, migrate)
  local before, saved = state.version, snapshot(state.value)
  local function undo()
    restore(saved)
    state.version = before
  end
  local ok, result = xpcall(migrate, wrap, state.value, before)
  if ok and result ~= nil and type(result) ~= 'table' then
    ok, result = false, yue.errors.ArgumentError.new(
      ('yue.state: the migrate of %q returns a table or nothing, not %s'):format(
        name, internal.describe_value(result)))
  end
  if not ok then
    undo()
    error(result, 0)
  end
  if result ~= nil and result ~= state.value then
    refill(state.value, result)
    setmetatable(state.value, getmetatable(result))
  end
  state.version = version
  internal.undo_with(undo)
end

--- Returns the table of that name, which a reload leaves as it is. The first call makes it by `init()`. If `version`
--- differs from that of the call before, `migrate(state, old_version)` changes it, or returns its new contents.
function yue.state(name, init, options)
  if type(name) ~= 'string' or name == '' then
    internal.argument_error('yue.state takes a name and a function, not ' .. internal.describe_value(name))
  end
  if init ~= nil and type(init) ~= 'table' and not internal.is_callable(init) then
    internal.argument_error('yue.state: init is a function or a table, not ' .. internal.describe_value(init))
  end
  local version, migrate = check_options(options)
  local state = states[name]
  if not state then return create(name, init, version) end
  if version ~= nil and version ~= state.version then
    if not migrate then
      error(yue.errors.RuntimeError.new(('yue.state: %q has the version %s, and there is no migrate to %s'):format(
        name, tostring(state.version), tostring(version))), 0)
    end
    migrate_state(name, state, version, migrate)
  end
  return state.value
end
