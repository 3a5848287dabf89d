-- Groups: sets of connections that are notified and called together; with a name, the same set on all loops.
--
-- A group is a userdata, because `#` asks only userdata for their length. Its metatable belongs to it alone, and holds
-- its state:
--
--   [1] its number     __index: the root of its procedures, behind which the methods are
--   name               its name, if it has one
--   conns, data        this loop's members: connection objects and their data, by the connection's number
--   count              the number of those
--
-- The native group knows the members first: a connection leaves there at the moment when it ends, and `forget` in
-- `rpc.lua` tidies up here.
local core, yue, internal = ...
local setmetatable, getmetatable, type, rawget, pairs, pcall = setmetatable, getmetatable, type, rawget, pairs, pcall
local unpack, select, error = unpack, select, error
local debug_getmetatable = debug.getmetatable
local check_seconds = internal.check_call_seconds

-- Named groups with members on this loop: their members' data must stay, whether the program has an object or not.
local held = {}
local by_name = setmetatable({}, { __mode = 'v' })

--- The state of a group; raises if `g` is not one.
local function state_of(g, name)
  local meta = type(g) == 'userdata' and debug_getmetatable(g)
  if type(meta) == 'table' and rawget(meta, 'is_group') then return meta end
  internal.argument_error(('write g:%s(…), with a colon; g is not %s'):format(name, internal.describe_value(g)))
end

local function check_connection(name, conn)
  if type(conn) == 'table' then
    if getmetatable(conn) == internal.Connection then return conn end
    if rawget(conn, 0) then
      internal.argument_error(
        ('%s takes a connection, not its procedures: use yue.conn(procs), or yue.socket for yue.open'):format(name)
      )
    end
  end
  internal.argument_error(
    ('%s takes a connection, such as yue.peer() or yue.socket(…) return, not %s'):format(
      name, internal.describe_value(conn))
  )
end

local function forget_member(g, meta, id)
  if meta.conns[id] == nil then return end
  meta.conns[id], meta.data[id] = nil, nil
  meta.count = meta.count - 1
  if meta.count == 0 then held[g] = nil end
end

--- The connection has ended, and has left its groups.
function internal.forget_groups(connection)
  local groups = connection._groups
  if not groups then return end
  connection._groups = nil
  for g in pairs(groups) do forget_member(g, debug_getmetatable(g), connection._id) end
end

-- -- Members of other loops ------------------------------------------------------------------------------------------

local Elsewhere = {}
Elsewhere.__index = Elsewhere
Elsewhere.__tostring = function(self) return ('connection to %s, on another loop'):format(self.address) end
core.name_class(Elsewhere)

--- The address of the peer.
function Elsewhere:addr()
  return self.address
end

--- Closes the connection.
function Elsewhere:close(reason)
  core.group_close(self.group, self.member, reason == nil and '' or internal.to_text(reason))
end

--- The answer of the one member that was called.
local function answer_of(list)
  local row = list[1]
  if not row then
    local e = yue.errors.ConnectionLostError.new('the connection has ended, or has left the group')
    e.retryable = true
    error(e, 0)
  end
  if not row[2] then error(row[3], 0) end
  return unpack(row, 3, row.n)
end

local function cancel_call(future)
  core.group_cancel(future.call)
  future.waiter:cancel()
end

--- A future of a call that was made; `take` makes its results of the list of outcomes.
local function answer_later(node, call, take)
  local future = internal.new_future('a call to a group')
  local function wait()
    internal.complete(future, pcall(function() return take(core.group_wait(call), node) end))
  end
  future.call, future.canceller, future.keep = call, cancel_call, node
  future.waiter = yue.fiber(wait, 'answers of a group')
  future.waiter.quiet = true
  future.waiter:run()
  return future
end

local function notify_later(...)
  local future = internal.new_future('a notification')
  internal.complete(future, pcall(...))
  return future
end

--- The callables of a group's or a member's procedures, by their prefixes: `take` makes the results of the list of
--- outcomes, `taken` that of the number of members that took a notification.
local function calls(take, taken)
  local function notify(node, ...) return taken(core.group_notify(node, -1, ...)) end
  local function notify_timed(node, seconds, ...)
    return taken(core.group_notify(node, check_seconds(seconds), ...))
  end
  return {
    [''] = function(node, ...) return take(core.group_wait(core.group_ask(node, -1, ...)), node) end,
    a = function(node, ...) return answer_later(node, core.group_ask(node, -1, ...), take) end,
    t = function(node, seconds, ...)
      return take(core.group_wait(core.group_ask(node, check_seconds(seconds), ...)), node)
    end,
    at = function(node, seconds, ...)
      return answer_later(node, core.group_ask(node, check_seconds(seconds), ...), take)
    end,
    n = notify,
    an = function(node, ...) return notify_later(notify, node, ...) end,
    tn = notify_timed,
    atn = function(node, seconds, ...) return notify_later(notify_timed, node, check_seconds(seconds), ...) end,
  }
end

local member_procs = internal.proxy_family(
  calls(answer_of, function(count) return count > 0 end),
  'procedures of a connection on another loop'
)

--- Replaces what the native layer knows of a member by a connection object, or by a stand-in for one on another loop.
--- Returns the connection's number if it is of this loop.
local function resolve(row, group)
  local id, member, address = row[1], row.member, row.address
  row.member, row.address = nil, nil
  local is_known, conn = false, nil
  -- The connection may have ended since, and its object may have been collected.
  if id then is_known, conn = pcall(internal.connection_of, id) end
  if not is_known then
    conn = setmetatable({ group = group[1], member = member, address = address, keep = group[0] }, Elsewhere)
    conn.procs = member_procs({ [0] = conn, group[1], '', '', 0, member })
  end
  row[1] = conn
  return id
end

-- -- Groups ----------------------------------------------------------------------------------------------------------

local function resolve_all(list, node)
  for i = 1, #list do resolve(list[i], node) end
  return list
end

local methods = {}

local group_procs = internal.proxy_family(
  calls(resolve_all, function(count) return count end),
  'procedures of a group',
  methods
)

--- Adds a connection of this loop, with data of the program's. Returns whether it is a member now: not if it has ended.
function methods.join(g, conn, data)
  local meta = state_of(g, 'join')
  check_connection('g:join', conn)
  local id = conn._id
  if not core.group_join(meta[1], id, data) then return false end
  if meta.conns[id] == nil then
    meta.count = meta.count + 1
    conn._groups = conn._groups or setmetatable({}, { __mode = 'k' })
    conn._groups[g] = true
    if meta.name then held[g] = true end
  end
  meta.conns[id], meta.data[id] = conn, data
  return true
end

--- Removes a connection. Returns whether it was a member.
function methods.leave(g, conn)
  local meta = state_of(g, 'leave')
  if type(conn) == 'table' and getmetatable(conn) == Elsewhere then
    internal.argument_error('g:leave: the connection belongs to another loop, and leaves there')
  end
  check_connection('g:leave', conn)
  local left = core.group_leave(meta[1], conn._id)
  if conn._groups then conn._groups[g] = nil end
  forget_member(g, meta, conn._id)
  return left
end

--- Iterates over the members of all loops, as they are now, in the order in which they joined: `conn, data`.
function methods.members(g)
  local meta = state_of(g, 'members')
  local list, i = core.group_members(meta[1]), 0
  return function()
    i = i + 1
    local row = list[i]
    if not row then return nil end
    local id = resolve(row, meta.__index)
    if id then return row[1], meta.data[id] end
    return row[1], row[2]
  end
end

--- Calls the procedure of that name of the only member, on whichever loop it is.
function methods.ask(g, name, ...)
  local meta = state_of(g, 'ask')
  if type(name) ~= 'string' or name == '' then
    internal.argument_error("g:ask takes the name of a procedure, not " .. internal.describe_value(name))
  end
  local list = core.group_members(meta[1])
  if #list == 0 then
    local e = yue.errors.ConnectionLostError.new(tostring(g) .. ' has no member')
    e.retryable = true
    error(e, 0)
  end
  if #list > 1 then
    internal.argument_error(
      ('g:ask is for groups of one, and %s has %d members: g.%s(…) calls all of them'):format(tostring(g), #list, name)
    )
  end
  resolve(list[1], meta.__index)
  local node = list[1][1].procs
  for part in name:gmatch('[^.]+') do node = node[part] end
  return node(...)
end

local function length(g)
  return core.group_length(debug_getmetatable(g)[1])
end

local function collected(g)
  core.group_release(debug_getmetatable(g)[1])
end

local function to_string(g)
  local name = debug_getmetatable(g).name
  return name and ('group ' .. name) or 'group'
end

local function assign()
  internal.argument_error('a group cannot be assigned to; data of a member is given to g:join(conn, data)')
end

--- The group of that name: the same members on every loop of the process. Without a name: a new group of connections of
--- this loop.
function yue.group(...)
  local name = ...
  if select('#', ...) > 1 or (name ~= nil and (type(name) ~= 'string' or name == '')) then
    internal.argument_error('yue.group takes a name, or nothing, not ' .. internal.describe_value(name))
  end
  local known = name and by_name[name]
  if known then return known end
  local id = core.group_new(name)
  local g = newproxy(true)
  local meta = debug_getmetatable(g)
  meta[1], meta.is_group, meta.name = id, true, name
  meta.conns, meta.data, meta.count = {}, {}, 0
  meta.__index = group_procs({ [0] = g, id, '', '' })
  meta.__len, meta.__gc, meta.__tostring, meta.__newindex = length, collected, to_string, assign
  if name then by_name[name] = g end
  return g
end
