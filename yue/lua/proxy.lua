-- Proxies: the callables behind `c.f` and `c.a.b.f`.
--
-- A node is a table with integer fields only, since every string is a name on the peer:
--
--   [0] the connection object     [1] its number     [2] the method, without prefixes     [3] the path, as written
--   [4] the number of names cached in it             [5] in procedures of a group: the member's number
--
-- Its metatable holds `__call`: for a plain name directly the native `core.call`; for a prefixed name a function made
-- for that combination of prefixes. Nodes are made once and cached in their parent.
local core, yue, internal = ...
local setmetatable, type, rawget, rawset, pcall, ipairs = setmetatable, type, rawget, rawset, pcall, ipairs

local PREFIXES = { async_ = 'async', timed_ = 'timed', notify_ = 'notify', mcast_ = 'mcast' }

--- Splits the prefixes off a name: returns the rest, and the set of prefixes in a fixed order ('' for none).
local function parse(name)
  if name:sub(1, 1) == '=' then return name:sub(2), '' end
  local found = {}
  while true do
    local prefix = name:match('^%l+_')
    local kind = prefix and PREFIXES[prefix]
    if not kind or found[kind] or #name == #prefix then break end
    found[kind] = true
    name = name:sub(#prefix + 1)
  end
  local mode = (found.async and 'a' or '') .. (found.timed and 't' or '') .. (found.notify and 'n' or '')
  return name, mode .. (found.mcast and 'm' or '')
end

local function check_seconds(seconds)
  if type(seconds) ~= 'number' or seconds ~= seconds or seconds < 0 then
    internal.argument_error(
      'a timed_ call takes the seconds that it may last as its first argument, not ' .. internal.describe_value(seconds)
    )
  end
  return seconds
end
internal.check_call_seconds = check_seconds

local futures = {} -- of asynchronous calls, by the number of the call
internal.futures = futures

local function take_completion(number, ok, ...)
  local future = futures[number]
  -- Of a call to all members of a group: `ok` is the sender's address.
  if future and future.take_answer then return future:take_answer(ok, ...) end
  futures[number] = nil
  if future then internal.complete(future, ok, ...) end
end

-- The only fiber that passes outcomes to futures. It lives as long as the VM: until it is cancelled.
core.spawn_daemon(function()
  internal.mark_helper(true)
  while true do
    local ok, e = pcall(function() take_completion(core.next_completion()) end)
    if not ok then
      if internal.is_error(e) and e:is_a('CancelledError') then return end
      internal.log_failure('error', 'an answer cannot be taken', e)
    end
  end
end)

local function cancel_call(future)
  core.cancel_call(future.call)
end

local function async(node, seconds, ...)
  local number = core.call_async(node, seconds, ...)
  local future = internal.new_future('a call')
  future.call, future.canceller = number, cancel_call
  -- Keeps the connection, which would be closed if nothing could reach it.
  future.keep = node
  futures[number] = future
  return future
end

local function notify_timed(node, seconds, ...)
  return core.notify_timed(node, check_seconds(seconds), ...)
end

local function notify_async(notify, ...)
  local future = internal.new_future('a notification')
  internal.complete(future, pcall(notify, ...))
  return future
end

local function call_members(node, ...) return internal.call_members(node, -1, ...) end

local function call_members_timed(node, seconds, ...)
  return internal.call_members(node, check_seconds(seconds), ...)
end

--- A notification to a group reaches all members as it is.
local function notify_members(notify)
  return function(node, ...)
    local address = node[0]._address
    if address:sub(1, 8) ~= 'mcast://' then
      internal.argument_error('mcast_ is for connections to mcast:// addresses, not ' .. address)
    end
    return notify(node, ...)
  end
end

local CALLS = {
  m = call_members, am = call_members, tm = call_members_timed, atm = call_members_timed,
  [''] = core.call,
  a = function(node, ...) return async(node, -1, ...) end,
  t = function(node, seconds, ...) return core.call_timed(node, check_seconds(seconds), ...) end,
  at = function(node, seconds, ...) return async(node, check_seconds(seconds), ...) end,
  n = core.notify,
  an = function(node, ...) return notify_async(core.notify, node, ...) end,
  tn = notify_timed,
  atn = function(node, seconds, ...) return notify_async(core.notify_timed, node, check_seconds(seconds), ...) end,
}

--- The number of a node's names that are kept, so that a program which makes names up does not keep them all.
local CHILDREN_MAX = 4096

--- All combinations of prefixes.
local MODES = { '', 'a', 't', 'at', 'n', 'an', 'tn', 'atn', 'm', 'am', 'tm', 'atm', 'nm', 'anm', 'tnm', 'atnm' }

--- Makes the metatables of one kind of procedures: `calls` has what each combination of prefixes does, `owner` says in
--- messages whose procedures these are, `methods` are names of the root that are not procedures. Returns the function
--- that makes a root of a table with a node's fields.
function internal.proxy_family(calls, owner, methods)
  local metas = {}

  local function child(parent, name)
    if type(name) ~= 'string' then return nil end
    local path = parent[3]
    local stripped, mode = parse(name)
    local prefix = path == '' and '' or path .. '.'
    local raw = name:sub(1, 1) == '=' and stripped or name
    local node = setmetatable(
      { [0] = parent[0], parent[1], prefix .. stripped, prefix .. raw },
      metas[mode]
    )
    local member = rawget(parent, 5)
    if member then rawset(node, 5, member) end
    local count = rawget(parent, 4) or 0
    if count < CHILDREN_MAX then
      rawset(parent, 4, count + 1)
      rawset(parent, name, node)
    end
    return node
  end

  local function assign()
    internal.argument_error('the ' .. owner .. ' cannot be assigned to')
  end

  local function no_members()
    internal.argument_error('mcast_ is for connections to mcast:// addresses, not for the ' .. owner)
  end

  for _, mode in ipairs(MODES) do
    local call = calls[mode] or no_members
    metas[mode] = {
      __call = call,
      __index = child,
      __tostring = function(node) return 'remote ' .. (node[2] == '' and 'procedures' or node[2]) end,
      __metatable = 'remote procedure',
      __newindex = assign,
    }
    core.name_class(metas[mode], true)
  end

  -- The root is not a procedure.
  local root_meta = {
    __index = methods and function(root, name) return methods[name] or child(root, name) end or child,
    __call = function() internal.argument_error('name a procedure: c.name(…)') end,
    __tostring = function(node) return 'remote procedures of ' .. tostring(node[0]) end,
    __metatable = 'remote procedures',
    __newindex = assign,
  }
  core.name_class(root_meta, true)

  return function(root) return setmetatable(root, root_meta) end
end

for _, mode in ipairs { 'n', 'an', 'tn', 'atn' } do CALLS[mode .. 'm'] = notify_members(CALLS[mode]) end

local new_root = internal.proxy_family(CALLS, 'procedures of a peer')

--- The root of a connection's procedures.
function internal.new_proxy(connection, id)
  return new_root({ [0] = connection, id, '', '' })
end

--- The connection object of procedures that `yue.open` returned.
function yue.conn(procs)
  local connection = type(procs) == 'table' and rawget(procs, 0)
  if not connection then
    internal.argument_error('yue.conn takes the procedures of a connection, such as yue.open returns')
  end
  return connection
end
