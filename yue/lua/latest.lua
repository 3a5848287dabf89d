-- `conn:latest`: for messages of which only the latest state matters, such as a player's position. While the peer keeps
-- up, each is a notification. While it does not, one message is kept for each key, as Lua values: it is encoded when
-- there is room, and a newer one replaces it at no cost.
local core, yue, internal = ...
local type, select, pcall, unpack, tostring = type, select, pcall, unpack, tostring
local Connection = internal.Connection

--- Limits on the number of keys with a message, and on the bytes of a key. Made-up keys must not fill the memory.
local KEYS_MAX = 4096
local KEY_BYTES_MAX = 256

-- Connections with waiting messages, by number: they must not be collected.
local waiting = {}

local function check_key(key)
  local kind = type(key)
  if kind == 'string' and #key <= KEY_BYTES_MAX then return end
  if kind == 'number' and key == key then return end
  internal.argument_error(
    ('conn:latest(key, name, …): the key is a number, or a string of at most %d bytes, not %s'):format(
      KEY_BYTES_MAX, kind == 'string' and ('one of %d bytes'):format(#key) or internal.describe_value(key))
  )
end

--- Drops the waiting messages: the connection has ended, or cannot be made.
function internal.forget_latest(connection)
  local pending = connection._pending
  if not pending then return end
  connection._pending, waiting[connection._id] = nil, nil
  connection._latest_dropped = (connection._latest_dropped or 0) + pending.count
end

--- Sends the waiting messages, the oldest key first, while there is room.
function internal.send_latest(connection)
  local pending, id = connection._pending, connection._id
  if not pending then return end
  local room = core.room(id)
  while room and pending.count > 0 do
    local entry = pending[pending.first]
    pending[pending.first] = nil
    pending.first, pending.count = pending.first + 1, pending.count - 1
    pending.by_key[entry.key] = nil
    local ok, e = pcall(core.notify, entry, unpack(entry.arguments, 1, entry.n))
    if not ok then
      internal.log_failure('error', ('conn:latest(%s, …)'):format(tostring(entry.key)), e, nil, core.log_limited)
    end
    room = core.room(id)
  end
  if pending.count == 0 then
    connection._pending, waiting[id] = nil, nil
  elseif room == nil then
    internal.forget_latest(connection)
  else
    core.ask_for_room(id)
  end
end

--- Notifies the peer of the latest state of `key`: calls its procedure `name`. While the peer does not keep up, the
--- message waits, and a later one of the same key replaces it. Returns whether it was queued.
function Connection:latest(key, name, ...)
  check_key(key)
  if type(name) ~= 'string' or name == '' then
    internal.argument_error(
      'conn:latest(key, name, …) takes the name of a procedure, not ' .. internal.describe_value(name)
    )
  end
  local pending, id = self._pending, self._id
  if self.closed or core.is_closed(id) then return false end
  if not pending and core.room(id) then return core.notify({ id, name }, ...) end
  if not pending then
    pending = { by_key = {}, first = 1, count = 0 }
  end
  local entry = pending.by_key[key]
  if not entry then
    if pending.count >= KEYS_MAX then
      self._latest_dropped = (self._latest_dropped or 0) + 1
      return false
    end
    entry = { id, key = key }
    pending.by_key[key] = entry
    pending[pending.first + pending.count] = entry
    pending.count = pending.count + 1
  end
  entry[2], entry.n, entry.arguments = name, select('#', ...), { ... }
  self._pending, waiting[id] = pending, self
  core.ask_for_room(id)
  return true
end
