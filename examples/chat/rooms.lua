-- The rooms: who is in them, and what was said. This file is run by one thread, so each room has one order of lines, on
-- whichever loops its members are. Its globals are called by handlers.lua.
local yue = require 'yue'

local HISTORY_MAX, ROOMS_MAX = 100, 1000

-- `yue.state` survives a reload of this file. The history does not survive a restart of the server.
local state = yue.state('rooms', function() return { rooms = {}, count = 0 } end)

local function forget_empty_rooms()
  for name, room in pairs(state.rooms) do
    if not next(room.members) then
      state.rooms[name] = nil
      state.count = state.count - 1
    end
  end
end

local function open_room(name)
  local room = state.rooms[name]
  if room then return room end
  if state.count >= ROOMS_MAX then forget_empty_rooms() end
  if state.count >= ROOMS_MAX then return nil end
  -- members: name -> { key, connections }; lines: the last ones.
  room = { members = {}, lines = {} }
  state.rooms[name] = room
  state.count = state.count + 1
  return room
end

local function names_in(room)
  local names = {}
  for name in pairs(room.members) do names[#names + 1] = name end
  table.sort(names)
  return yue.array(names)
end

--- Tells the room who is in it, and everybody how many they are.
local function tell_presence(room_name, room)
  local names = names_in(room)
  yue.group('room/' .. room_name).notify_members(names)
  yue.group('everybody').notify_room(room_name, #names)
end

--- Adds a line to the history and sends it to the members. A line without a name is the room's own.
local function add_line(room_name, room, name, text)
  local line = { name = name, text = text, time = yue.time() }
  table.insert(room.lines, line)
  if #room.lines > HISTORY_MAX then table.remove(room.lines, 1) end
  -- A notification is encoded once for all members, and never waits.
  yue.group('room/' .. room_name).notify_line(line)
end

--- How many members each room has.
function list_rooms()
  local counts = {}
  for name, room in pairs(state.rooms) do counts[name] = #names_in(room) end
  return yue.map(counts)
end

--- A member comes, or comes back: its key is known. Returns a text if it cannot.
function join(room_name, name, key)
  local room = open_room(room_name)
  if not room then return 'there are too many rooms' end
  local member = room.members[name]
  if member and member.key ~= key then return ('there is a %s in this room already'):format(name) end
  if member then
    -- The same page again. Its old connection may not have noticed its end yet.
    member.connections = member.connections + 1
  else
    room.members[name] = { key = key, connections = 1 }
    add_line(room_name, room, nil, name .. ' came in')
    tell_presence(room_name, room)
  end
  -- Messages of this thread arrive in order: what changed before is in this one, what changes later comes after it.
  yue.group('member/' .. room_name .. '/' .. key).notify_entered {
    room = room_name, lines = yue.array(room.lines), members = names_in(room), rooms = list_rooms(),
  }
end

--- The member that has this name and this key, and its room.
local function find(room_name, name, key)
  local room = state.rooms[room_name]
  local member = room and room.members[name]
  if member and member.key == key then return member, room end
end

function leave(room_name, name, key)
  local member, room = find(room_name, name, key)
  if not member then return end
  member.connections = member.connections - 1
  if member.connections > 0 then return end
  room.members[name] = nil
  add_line(room_name, room, nil, name .. ' left')
  tell_presence(room_name, room)
end

function say(room_name, name, key, text)
  local member, room = find(room_name, name, key)
  if member then add_line(room_name, room, name, text) end
end
