-- The functions that a page may call: the globals of this file, except those that begin with `_`. They run on the loop
-- of the player's connection. `yue dev` reloads this file when it changes.
local yue = require 'yue'

local NAME_MAX = 16

local game = yue.open 'thread://game'

--- The number of characters of a text, which may have more bytes: UTF-8.
local function length(text)
  return select(2, text:gsub('[^\128-\191]', ''))
end

--- The login: runs once for each connection, before the page may call anything else. It asks the page who is there. A
--- page that connects again is asked again, and keeps its score by its token. A NotGrantedError is a refusal, and not
--- logged; any other error would be.
function __accept(conn)
  local who = conn.procs.login()
  local name = tostring(who.name):gsub('%c', ''):match '^%s*(.-)%s*$'
  if name == '' or length(name) > NAME_MAX then
    error(yue.errors.NotGrantedError.new(('a name has 1 to %d characters'):format(NAME_MAX)))
  end
  conn.player = game.enter(name, tostring(who.token))
  yue.group('arena'):join(conn)
  -- A group of one is an address: the game sends the world to it, in order with the changes that it sends to all.
  yue.group('player/' .. conn.player.token):join(conn)
  game.look(conn.player.token)
  return true
end

function __close(conn)
  if conn.player then game.notify_leave(conn.player.token) end
end

--- Where the player wants to go, each from -1 to 1. The world takes it at its next tick.
---@param dx number
---@param dy number
function steer(dx, dy)
  game.notify_steer(yue.peer().player.id, dx, dy)
end

--- How many bytes this connection was sent. The page measures how long the answer takes.
---@return number bytes
function ping()
  return yue.peer():stats().bytes_out
end
