-- The functions that a page may call: the globals of this file, except those that begin with `_`. They run on the loop
-- of the member's connection. `yue dev` reloads this file when it changes.
local yue = require 'yue'

local NAME_MAX, KEY_MAX, TEXT_MAX = 24, 64, 1000

-- The thread may start a moment later than this loop: `retry` lets the first call wait for it.
local rooms = yue.open('thread://rooms', { retry = true }, nil)

--- The number of characters of a text, which may have more bytes: UTF-8.
local function length(text)
  return select(2, text:gsub('[^\128-\191]', ''))
end

--- Trims a line that a member typed, and removes what could disturb a terminal. Returns nil and a refusal if it is too
--- long, or empty: an error would be logged, as a fault of the program, and a member's mistake is not one.
local function clean(text, length_max, what)
  text = tostring(text):gsub('%c', ' '):match '^%s*(.-)%s*$'
  if text == '' or length(text) > length_max then return nil, ('%s has 1 to %d characters'):format(what, length_max) end
  return text
end

--- The number of members of each room, to choose from.
---@return table<string, number>
function list_rooms()
  return rooms.list_rooms()
end

--- The groups of a member: its room, and one for itself alone, by which the thread reaches it on whichever loop it is.
local function groups_of(member)
  return yue.group('room/' .. member.room), yue.group('member/' .. member.room .. '/' .. member.key)
end

--- Enters a room. The page then gets `entered`, with all that it shows. Returns a text if the room cannot be entered.
--- The key is a secret of the page: with it a member that reconnects gets its name back.
---@param room string
---@param name string
---@param key string
---@return string? refusal
function join(room, name, key)
  local conn = yue.peer()
  leave()
  local member, refusal = {}, nil
  member.room, refusal = clean(room, NAME_MAX, 'a room')
  if refusal then return refusal end
  member.name, refusal = clean(name, NAME_MAX, 'a name')
  if refusal then return refusal end
  member.key, refusal = clean(key, KEY_MAX, 'a key')
  if refusal then return refusal end
  conn.member = member
  local room_group, own_group = groups_of(member)
  yue.group('everybody'):join(conn)
  room_group:join(conn)
  own_group:join(conn)
  refusal = rooms.join(member.room, member.name, member.key)
  if refusal then
    room_group:leave(conn)
    own_group:leave(conn)
    if conn.member == member then conn.member = nil end
  end
  return refusal
end

--- Leaves the room.
function leave()
  __close(yue.peer())
end

--- Says something to the room. Returns a text if it cannot be said.
---@param text string
---@return string? refusal
function say(text)
  local member = yue.peer().member
  if not member then return 'join a room first' end
  local line, refusal = clean(text, TEXT_MAX, 'a line')
  if not line then return refusal end
  rooms.say(member.room, member.name, member.key, line)
end

--- Runs when a connection has ended.
function __close(conn)
  local member = conn.member
  if not member then return end
  conn.member = nil
  for _, group in ipairs { groups_of(member) } do group:leave(conn) end
  rooms.notify_leave(member.room, member.name, member.key)
end
