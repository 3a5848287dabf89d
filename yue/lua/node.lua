-- The node's side of `yue.nalloc`: runs the library of its owner, and asks the owner for modules and files.
--
--   owner opens ──▶ __accept: job ──▶ the library runs, asks for its modules ──▶ granted { ok } ──▶ calls
--
-- The library has returned, or waits for something else than its owner, when the owner's calls begin.
local core, yue, internal = ...
local type, ipairs, setmetatable, tostring, error = type, ipairs, setmetatable, tostring, error

local pid, host, binary = core.node_facts()

--- What a program can know of itself as a node, or as an owner.
yue.node = { binary = binary }

--- The folder of the user's cache for files of that kind.
function internal.cache_folder(kind)
  local base = os.getenv('XDG_CACHE_HOME')
  if not base or base == '' then base = (os.getenv('HOME') or '/tmp') .. '/.cache' end
  return base .. '/yue/' .. kind
end

if not core.is_node then return end

-- The owner may be at the other end of a slow network, and a file is read before it is sent.
local ASK_TIME = 60

-- What the owner says at the end of a connection that it closes itself.
local RELEASED = 'closed by the peer: released'

local owner, job -- the connection, and its answer to the first question
local asking = 0 -- questions that the library waits for

local function results(ok, ...)
  if not ok then error((...), 0) end
  return ...
end

local function ask(what, ...)
  return core.call_timed(owner.procs['=$yue/node/' .. what], ASK_TIME, ...)
end

local function end_asking(...)
  asking = asking - 1
  return results(...)
end

--- Like `ask`; meanwhile the library counts as loading.
local function ask_while_loading(...)
  asking = asking + 1
  return end_asking(pcall(ask, ...))
end

-- -- Modules ----------------------------------------------------------------------------------------------------------

--- Looks for a module at the owner. Lua files of this machine are not looked at: a node runs its owner's code only.
local function load_from_owner(name)
  if not owner then return ("\n\tno owner yet to ask for the module '%s'"):format(name) end
  local text, path = ask_while_loading('source', name)
  if not text then return '\n\t' .. tostring(path) end
  local chunk, message = loadstring((text:gsub('^#[^\n]*', '')), '@' .. path)
  if not chunk then error(("error loading module '%s' from its owner:\n\t%s"):format(name, message), 0) end
  return chunk
end

-- Behind that of `package.preload`, in the place of that for Lua files.
package.loaders[2] = load_from_owner

-- -- Files ------------------------------------------------------------------------------------------------------------


local function fetch(name, info)
  local folder = internal.cache_folder('files')
  local path = folder .. '/' .. info.hash
  if yue.fs.exists(path) then return path end
  yue.fs.mkdir(folder, { parents = true })
  local temporary = ('%s.%d.%s'):format(path, pid, yue.crypto.hex(yue.crypto.random(4)))
  yue.fs.write(temporary, '')
  local ok, e = pcall(function()
    local hashes, offset = {}, 0
    while offset < info.size do
      local bytes = ask_while_loading('chunk', name, offset)
      if not bytes or bytes == '' then break end
      hashes[#hashes + 1] = yue.crypto.sha256(bytes)
      yue.fs.append(temporary, bytes)
      offset = offset + #bytes
    end
    if yue.crypto.hex(yue.crypto.sha256(table.concat(hashes))) ~= info.hash then
      error(yue.errors.RuntimeError.new(("the file '%s' changed while it was fetched; fetch it again"):format(name)), 0)
    end
  end)
  if ok then
    yue.fs.rename(temporary, path)
    return path
  end
  yue.fs.remove(temporary)
  error(e, 0)
end

--- The path, on this machine, of a file that the owner's option `files` lists.
function yue.file(name)
  if type(name) ~= 'string' then
    internal.argument_error('yue.file takes the name of a file, not ' .. internal.describe_value(name))
  end
  local info, message = ask_while_loading('file', name)
  if not info then error(yue.errors.ArgumentError.new(tostring(message)), 0) end
  if job.is_local then return info.path end
  return fetch(name, info)
end

-- -- The library ------------------------------------------------------------------------------------------------------

local listener

local function load_library()
  if job.code then return core.load_bytecode(job.code) end
  local chunk, message = loadstring((job.text:gsub('^#[^\n]*', '')), '@' .. job.path)
  if not chunk then error(yue.errors.ArgumentError.new('cannot load the library: ' .. message), 0) end
  return chunk
end

--- Runs the library: its globals may be called. A library that is a function, or returns a table, may name them so.
local function run_library()
  local chunk = load_library()
  local layer = setmetatable({}, { __index = _G })
  setfenv(chunk, layer)
  listener:import(layer)
  local result = chunk()
  internal.check_names(layer)
  if type(result) == 'table' and not internal.is_module(result) then listener:import(result) end
end

--- Waits until the library has returned, or waits for something that is not part of loading: reading a file is, a sleep
--- is not.
local function wait_for(library)
  local pause = 0
  repeat
    yue.sleep(pause)
    pause = math.min(pause + 0.0005, 0.02)
  until library:done() or (asking == 0 and core.node_is_settled(library.id))
end

local function failure_of(e)
  local kind, code, msg, bt = internal.describe_failure(e)
  return { ok = false, type = kind, code = code, msg = msg, bt = bt }
end

--- The link to the owner has ended, and so does the node.
local function on_end(reason)
  if core.role == 'thread' then return yue.thread.current:exit() end
  -- A living owner lets its nodes finish. Behind a link that broke it may be dead, and somebody may have taken over.
  if not (job and job.is_local) and reason ~= RELEASED then core.node_end() end
  yue.die()
end

--- The first connection is the owner's. What this returns travels to it.
local function accept(connection)
  if owner then return false end
  owner = connection
  -- Not only as a callback of the namespace: a library may have one of its own.
  connection:bind('close', on_end)
  local asked_at = core.node_clock()
  job = ask('job', { pid = pid, host = host, version = yue.version })
  if core.role == 'node' then core.node_begin(connection._id, asked_at, job.lease, job.grace) end
  for _, key in ipairs { 'id', 'target', 'epoch', 'started' } do yue.node[key] = job[key] end
  yue.node.owner = connection.procs
  local library = yue.spawn(run_library)
  wait_for(library)
  if not library:done() then return { ok = true } end
  local ok, e = library:sync()
  return ok and { ok = true } or failure_of(e)
end

local hidden = {
  __accept = accept,
  -- The link may end before it is accepted.
  __close = function(connection, reason)
    if not owner or connection == owner then on_end(reason) end
  end,
  ['$yue/node/started'] = function() return true end,
}

if core.role == 'thread' then
  listener = internal.own_listener
  listener:import(hidden)
else
  local namespace = internal.new_namespace(hidden)
  listener = internal.new_listener(namespace, {}, core.node_listen('owner', {}, namespace.layers))
end
