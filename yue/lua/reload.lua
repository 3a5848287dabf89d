-- Reloads: new versions of modules and of files of symbols, while fibers run.
--
--   file ── require, yue.listen ──▶ node: file, hash of its text, the modules that it required when it was loaded
--
--   yue.reload()   1 nodes whose file has changed, and those that depend on them
--                  2 load them: `require` in this fiber finds the new tables, in all others the old ones
--                  3 exchange, without a wait: package.loaded, the layers of namespaces, the version's number
--
-- A fiber keeps the version in which it began. Nothing is recorded about fibers until a reload: at the exchange, each
-- fiber in the middle of some work is pinned to the version before it, until that work ends. A version holds the
-- modules that were replaced since, for the `require` of its fibers. Only pins refer to an old version, so the last of
-- them frees it.
local core, yue, internal = ...
local type, pairs, ipairs, next, xpcall, pcall, error, loadstring =
  type, pairs, ipairs, next, xpcall, pcall, error, loadstring
local getinfo, open, sort, setmetatable = debug.getinfo, io.open, table.sort, setmetatable
local wrap, pinned = internal.wrap, internal.pinned

local loaded, package = package.loaded, package
local hooks = debug.getregistry()['yue.require']

--- Levels of the stack that are searched for a module which is being loaded.
local LEVELS_MAX = 200
--- Names of fibers in a report, of each version.
local NAMES_MAX = 100
--- Seconds between two looks whether the reload of another fiber or loop has ended.
local TURN = 0.005

local current = { number = 1, modules = {} }
local nodes = {} -- of modules, by name
local loading = setmetatable({}, { __mode = 'k' }) -- nodes, by the function that is being run to load them
local transaction -- what a reload has loaded and not exchanged
local find

local function update_hooks()
  hooks.find = (transaction or next(pinned) or next(loading)) and find or nil
end

-- -- Nodes -----------------------------------------------------------------------------------------------------------

local function text_of(path)
  local file = open(path, 'rb')
  local text = file and file:read '*a'
  if file then file:close() end
  return text
end

--- Whether the path leads to no file that could be read again: `/dev/stdin`, a pipe of the shell.
local function is_device(path)
  return path:find '^/dev/' or path:find '^/proc/'
end

local function hash_of(path)
  local text = not is_device(path) and text_of(path)
  return text and core.sha256(text) or nil
end

--- Compiles a file: returns its function, nil, and the hash of the text that it was made of; or nil and a message.
function internal.compile(path)
  local text = text_of(path)
  -- For the message.
  if not text then return loadfile(path) end
  -- A first line that begins with `#` is skipped, as `loadfile` does; lines keep their numbers.
  local chunk, message = loadstring((text:gsub('^#[^\n]*', '')), '@' .. path)
  return chunk, message, not is_device(path) and core.sha256(text) or nil
end

--- Completes the node of a function that loads it, and records that it is being loaded.
local function begin_load(loader, node)
  local facts = getinfo(loader, 'S')
  if not node.file and facts.what == 'main' then node.file = facts.source:match '^@(.*)' end
  node.deps = {}
  if node.file and not node.hash then node.hash = hash_of(node.file) end
  loading[loader] = node
  hooks.find = find
  return node
end

local function end_load(loader)
  loading[loader] = nil
  update_hooks()
  if internal.files_changed then internal.files_changed() end
end

--- Whether a module that this function loads can be loaded again.
local function is_reloadable(name, loader)
  local preload = package.preload
  return getinfo(loader, 'S').what ~= 'C' and not (type(preload) == 'table' and preload[name] == loader)
end

function hooks.load(name, loader)
  if is_reloadable(name, loader) then begin_load(loader, { name = name }) end
end

function hooks.done(name, loader)
  local node = loading[loader]
  if not node then return end
  nodes[name] = node
  end_load(loader)
end

--- Records that the chunk of a file of symbols is being run. Returns the file's node.
function internal.begin_symbols(chunk, path, hash)
  return begin_load(chunk, { file = path, hash = hash, assigned = {} })
end

internal.end_symbols = end_load

--- The node that the calling fiber is loading; nil if it loads none.
local function nearest_loading()
  for level = 3, LEVELS_MAX do
    local frame = getinfo(level, 'f')
    if not frame then return nil end
    local node = loading[frame.func]
    if node then return node end
  end
end

-- -- Pins ------------------------------------------------------------------------------------------------------------

local function pin(id, version)
  pinned[id] = version
  core.note_record_of(id)
end

function internal.unpin(id)
  pinned[id] = nil
  update_hooks()
end

--- Pins a fiber that the calling one has started to the version of that one.
function internal.inherit_pin(parent, id)
  pin(id, pinned[parent])
end

--- Pins every fiber that is in the middle of some work to the version, unless it has an older one.
local function pin_others(version)
  local own = core.current()
  for _, id in ipairs(core.working_fibers()) do
    if id ~= own and not pinned[id] and not internal.waits_for_work(id) then pinned[id] = version end
  end
  -- Those that have not run yet, too.
  internal.each_running(function(id)
    if id ~= own and not pinned[id] then pin(id, version) end
  end)
end

-- -- Loading ---------------------------------------------------------------------------------------------------------

--- The function that loads the module, and the text that it was made of, if that is a file's.
local function find_loader(name)
  local loader, message = hooks.search(name)
  if not loader then error(message, 0) end
  local facts = getinfo(loader, 'S')
  local path = facts.what == 'main' and facts.source:match '^@(.*)'
  if not path then return loader end
  -- The file may have changed since: of this function the hash is known.
  local chunk, fault, hash = internal.compile(path)
  if not chunk then error(fault, 0) end
  return chunk, path, hash
end

local function load_module(tx, name)
  local loader, path, hash = find_loader(name)
  if not is_reloadable(name, loader) then return false end
  local before = loaded[name]
  tx.busy[name] = true
  tx.nodes[name] = begin_load(loader, { name = name, file = path, hash = hash })
  local ok, value = xpcall(loader, wrap, name)
  loading[loader], tx.busy[name] = nil, nil
  -- The module may have published its table by itself, as in Lua.
  local published = loaded[name]
  if published ~= before then loaded[name] = before else published = nil end
  if not ok then error(value, 0) end
  if value == nil then value = published end
  -- `module` of Lua 5.1 changes the table that it finds.
  if value == nil and type(before) == 'table' and rawget(before, '_M') == before then value = before end
  if value == nil then value = true end
  tx.fresh[name] = value
  return true, value
end

--- The module as the fiber of a reload sees it.
local function require_in(tx, name)
  local value = tx.fresh[name]
  if value ~= nil then return true, value end
  if tx.busy[name] then
    error(("loop while loading module '%s'"):format(internal.to_text(name)), 0)
  end
  if tx.affected[name] or loaded[name] == nil then return load_module(tx, name) end
  return false
end

--- Called by `require` while it is set: returns whether the calling fiber has a version of its own of the module, and
--- that.
function find(name)
  local parent = next(loading) and nearest_loading()
  if parent then parent.deps[name] = true end
  local id = core.current()
  local tx = transaction
  if tx and id and tx.fiber == id and type(name) == 'string' then return require_in(tx, name) end
  -- What a module finds when it is loaded stays in it for all fibers.
  if parent or not id then return false end
  local version = pinned[id]
  if not version then return false end
  local value = version.modules[name]
  return value ~= nil, value
end

-- -- What has changed ------------------------------------------------------------------------------------------------

--- Calls `f(node, namespace)` for the node of each module and, with the namespace, of each file of symbols.
local function each_node(f)
  for name, node in pairs(nodes) do
    -- A program may have removed the module, so that the next `require` loads it.
    if loaded[name] == nil then nodes[name] = nil else f(node) end
  end
  for namespace in pairs(internal.namespaces) do
    for _, node in ipairs(namespace.files) do f(node, namespace) end
  end
end

--- The set of nodes to be loaded: those of these names, or else those whose file has changed; and all that depend on
--- them. `strict`: raises if a name is unknown.
local function affected_nodes(names, strict)
  local set = {}
  if names then
    local wanted = {}
    for _, name in ipairs(names) do wanted[name] = true end
    local unknown = {}
    for name in pairs(wanted) do unknown[name] = true end
    each_node(function(node)
      for _, name in ipairs { node.name or '', node.file or '' } do
        if wanted[name] then set[node], unknown[name] = true, nil end
      end
    end)
    local name = next(unknown)
    if name and strict then
      internal.argument_error(('yue.reload: %s is not loaded from a file of Lua'):format(internal.to_text(name)))
    end
  else
    local hashes = {}
    each_node(function(node)
      local path = node.file
      -- A loader of the program's own may name a file that there is none of.
      if not (path and node.hash) then return end
      if hashes[path] == nil then hashes[path] = hash_of(path) or false end
      if hashes[path] ~= node.hash or node.is_stale then set[node] = true end
    end)
  end
  local grows = next(set) ~= nil
  while grows do
    grows = false
    each_node(function(node)
      if set[node] then return end
      for name in pairs(node.deps) do
        local other = nodes[name]
        if other and set[other] then
          set[node], grows = true, true
          return
        end
      end
    end)
  end
  return set
end

-- -- A reload --------------------------------------------------------------------------------------------------------

--- Calls `undo` if the reload that the calling fiber is in fails.
function internal.undo_with(undo)
  local tx = transaction
  if tx and tx.fiber == core.current() then tx.undo[#tx.undo + 1] = undo end
end

local function forget(tx)
  if transaction == tx then transaction = nil end
  for i = #tx.undo, 1, -1 do tx.undo[i]() end
  update_hooks()
end

local function load_all(tx, set)
  local names = {}
  for name in pairs(tx.affected) do names[#names + 1] = name end
  sort(names)
  for _, name in ipairs(names) do
    if not require_in(tx, name) then
      error(yue.errors.RuntimeError.new(('the module %s is not a file of Lua any more'):format(name)), 0)
    end
  end
  -- A file may wait, and others may listen meanwhile: the set of namespaces is not traversed then.
  for namespace in pairs(internal.namespaces) do
    for _, node in ipairs(namespace.files) do
      if set[node] then tx.layers[#tx.layers + 1] = { namespace = namespace, old = node } end
    end
  end
  for _, change in ipairs(tx.layers) do change.new = internal.run_symbols(change.old.file) end
  for namespace in pairs(internal.namespaces) do
    for _, layer in ipairs(namespace.layers) do
      for name, value in pairs(tx.fresh) do
        if layer == loaded[name] and type(value) == 'table' then internal.check_names(value) end
      end
    end
  end
end

--- Loads the new versions. Returns what `exchange` and `forget` take; nil if nothing has changed.
local function load_versions(names, strict)
  if transaction then
    if transaction.fiber == core.current() then
      error(yue.errors.RuntimeError.new('yue.reload: a module cannot reload while it is being loaded'), 0)
    end
    forget(transaction)
  end
  local set = affected_nodes(names, strict)
  if next(set) == nil then return nil end
  local tx = { fiber = core.current(), affected = {}, fresh = {}, nodes = {}, busy = {}, layers = {}, undo = {} }
  for node in pairs(set) do
    if node.name then tx.affected[node.name] = true end
  end
  transaction = tx
  update_hooks()
  local ok, e = xpcall(load_all, wrap, tx, set)
  tx.fiber = nil
  if not ok then
    forget(tx)
    if internal.is_error(e) then e.msg = 'nothing was reloaded: ' .. internal.to_text(e.msg) end
    error(e, 0)
  end
  return tx
end

local function exchange_layers(tx, replaced)
  for _, change in ipairs(tx.layers) do
    local namespace, old, new = change.namespace, change.old, change.new
    internal.keep_assigned(old, new)
    replaced[old.layer] = new.layer
    for i, node in ipairs(namespace.files) do
      if node == old then namespace.files[i] = new end
    end
  end
  for namespace in pairs(internal.namespaces) do
    for i, layer in ipairs(namespace.layers) do namespace.layers[i] = replaced[layer] or layer end
  end
end

--- What other fibers have loaded since the reload began, or are loading now, may have got the old tables: the next
--- reload loads it again.
local function mark_stale(tx)
  local new = {}
  for _, node in pairs(tx.nodes) do new[node] = true end
  for _, change in ipairs(tx.layers) do new[change.new] = true end
  local function check(node)
    if new[node] then return end
    for name in pairs(node.deps) do
      if tx.fresh[name] ~= nil then node.is_stale = true end
    end
  end
  each_node(check)
  for _, node in pairs(loading) do check(node) end
end

--- Makes what was loaded the present version. Nothing here waits.
local function exchange(tx)
  transaction = nil
  pin_others(current)
  current = { number = current.number + 1, modules = {} }
  local versions, replaced = {}, {}
  for _, version in pairs(pinned) do versions[version] = true end
  for name, value in pairs(tx.fresh) do
    local before = loaded[name]
    if before ~= nil then
      for version in pairs(versions) do
        if version.modules[name] == nil then version.modules[name] = before end
      end
      if type(before) == 'table' and type(value) == 'table' then replaced[before] = value end
    end
    loaded[name], nodes[name] = value, tx.nodes[name]
  end
  exchange_layers(tx, replaced)
  mark_stale(tx)
  -- The fiber that reloads goes over to the new version.
  local own = core.current()
  if own then pinned[own] = nil end
  update_hooks()
  if core.development_script then core.development_forget() end
  if internal.files_changed then internal.files_changed() end
end

-- -- Reports ---------------------------------------------------------------------------------------------------------

local function add_fiber(versions, number, id)
  local list = versions[number]
  if not list then
    list = { count = 0 }
    versions[number] = list
  end
  list.count = list.count + 1
  if list.count <= NAMES_MAX then list[list.count] = internal.name_of(id) end
end

--- The names of the fibers that run each version, and their number.
local function versions()
  local all = { [current.number] = { count = 0 } }
  for id, version in pairs(pinned) do add_fiber(all, version.number, id) end
  internal.each_running(function(id)
    if not pinned[id] then add_fiber(all, current.number, id) end
  end)
  for _, list in pairs(all) do sort(list) end
  return all
end

local function report_on(tx)
  local names, seen = {}, {}
  local function add(name)
    if not seen[name] then
      seen[name] = true
      names[#names + 1] = name
    end
  end
  for name in pairs(tx and tx.fresh or {}) do add(name) end
  for _, change in ipairs(tx and tx.layers or {}) do add(change.new.file) end
  sort(names)
  return { modules = names, version = current.number, fibers = versions() }
end

-- -- All loops -------------------------------------------------------------------------------------------------------

local staged -- what this loop has loaded for the reload of another loop
local forgotten -- the round of a reload that has failed

--- A step of a reload that another loop of the program has begun.
function internal.reload_step(step)
  if step.name == 'show' then return internal.development.show_here(step.what, step.text) end
  if step.name == 'load' then
    local tx = load_versions(step.names, false)
    if tx and forgotten == step.round then forget(tx) else staged = tx end
  else
    local tx = staged
    staged = nil
    if step.name == 'forget' then forgotten = step.round end
    if not tx then return end
    if step.name ~= 'exchange' then return forget(tx) end
    exchange(tx)
    if internal.note_reload then internal.note_reload(report_on(tx)) end
  end
end

local function others(name, round, names)
  return core.reload_others(core.msgpack_encode { name = name, round = round, names = names })
end

local function reload(names)
  local round = core.now_us()
  local tx = load_versions(names, true)
  local ok, e = pcall(others, 'load', round, names)
  if not ok then
    if tx then forget(tx) end
    pcall(core.shield, others, 'forget', round)
    error(e, 0)
  end
  if tx then exchange(tx) end
  core.shield(others, 'exchange', round)
  return report_on(tx)
end

local function check_list(names)
  if names == nil then return nil end
  if type(names) == 'string' then names = { names } end
  if type(names) ~= 'table' then
    internal.argument_error(
      'yue.reload takes the name of a module, or a list of names, not ' .. internal.describe_value(names))
  end
  local list = {}
  for i = 1, #names do
    if type(names[i]) ~= 'string' then
      internal.argument_error('yue.reload: a name is a string, not ' .. internal.describe_value(names[i]))
    end
    list[i] = names[i]
  end
  return yue.array(list)
end

--- Loads the modules and files of symbols that have changed, or those of these names, and all that depend on them, on
--- all loops and threads of the program: all of them or none. Returns `{ modules, version, fibers }`.
local function reload_all(_, names)
  names = check_list(names)
  local id = core.current()
  if not id then error(yue.errors.RuntimeError.new('yue.reload works in a fiber only'), 0) end
  if transaction and transaction.fiber == id then
    error(yue.errors.RuntimeError.new('yue.reload: a module cannot reload while it is being loaded'), 0)
  end
  while not core.reload_begin() do core.sleep(TURN) end
  local ok, result = xpcall(reload, wrap, names)
  core.reload_end()
  if not ok then error(result, 0) end
  return result
end

local api = {}

--- The names of the fibers that run each version, and their `count`: lists by the version's number.
function api.versions()
  return versions()
end

--- Moves the calling fiber, which may have begun in an older version, to the present one. Returns its number.
function api.advance()
  local id = core.current()
  if id and pinned[id] then internal.unpin(id) end
  return current.number
end

--- Calls `f(path)` with each file that a reload looks at.
function internal.each_file(f)
  each_node(function(node)
    if node.file then f(node.file) end
  end)
end

yue.reload = setmetatable(api, { __call = reload_all })
