-- A chat. Run the server with:  cargo run --release -- -c 2 examples/chat.lua serve
-- and in other terminals:       cargo run --release -- examples/chat.lua join frodo
--                               cargo run --release -- examples/chat.lua say sam 'good day'
-- The server runs on as many loops as -c says. A client belongs to one of them, and hears all. Each command may end
-- with another address. Ctrl-C ends it.
local yue = require 'yue'

local ADDRESS = 'unix:///tmp/yue-chat'

--- Removes control characters, so that members cannot send commands to the others' terminals.
local function printable(text)
  return (tostring(text):gsub('%c', ''):sub(1, 1000))
end

local function serve(address)
  local room = yue.group('room')
  -- A member that does not read loses lines, and nothing else.
  local listener = yue.listen(address, { when_full = 'drop', rate = { calls = 10, burst = 100 } }, {
    enter = function(member)
      local conn = yue.peer()
      if conn.name then error('you are in the room already', 0) end
      conn.name = printable(member)
      room:join(conn, conn.name)
      room.notify_hear('* ' .. conn.name .. ' comes in')
      return yue.thread.current.index
    end,
    say = function(text)
      local conn = yue.peer()
      if not conn.name then error('enter the room first', 0) end
      room.notify_hear(conn.name .. ': ' .. printable(text))
    end,
    who = function()
      local names = {}
      for _, member in room:members() do names[#names + 1] = member end
      return names
    end,
    __close = function(conn)
      if conn.name then room.notify_hear('* ' .. conn.name .. ' leaves') end
    end,
  })
  print('serving at ' .. listener:addr())
  io.stdout:flush()
end

local function enter(name, address)
  local server = yue.open(address, { reconnect = false }, {
    hear = function(line)
      print(line)
      io.stdout:flush()
    end,
  })
  print(('you are in the room, on loop %d'):format(server.enter(name)))
  io.stdout:flush()
  return server
end

local commands = {}

function commands.serve(address)
  serve(address or ADDRESS)
end

function commands.join(name, address)
  local server = enter(name, address or ADDRESS)
  print('with: ' .. table.concat(server.who(), ', '))
  io.stdout:flush()
  yue.conn(server):wait('close')
end

function commands.say(name, text, address)
  local server = enter(name, address or ADDRESS)
  server.say(text)
  yue.conn(server):close()
end

local command = commands[yue.args[1]]
if not command or (command ~= commands.serve and not yue.args[2]) then
  io.stderr:write('usage: chat.lua serve [ADDRESS] | join NAME [ADDRESS] | say NAME TEXT [ADDRESS]\n')
  os.exit(2)
end
command(unpack(yue.args, 2, 4))
