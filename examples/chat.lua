-- A chat. Run the server with:  cargo run --release -- -c 2 examples/chat.lua serve [address]
-- and in other terminals:       cargo run --release -- examples/chat.lua join frodo [address]
-- The server runs on as many loops as -c says. A client belongs to one of them, and hears all.
local yue = require 'yue'

local command, name, address = yue.args[1], yue.args[2], yue.args[3]
if command == 'serve' then address = name end
address = address or 'unix:///tmp/yue-chat'

--- Removes control characters, so that members cannot send commands to the others' terminals.
local function printable(text)
  return (tostring(text):gsub('%c', ''):sub(1, 1000))
end

local function serve()
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

local function join()
  local server = yue.open(address, nil, {
    hear = function(line)
      print(line)
      io.stdout:flush()
    end,
  })
  print(('you are in the room, on loop %d'):format(server.enter(name)))
  for line in io.lines() do
    if line == '/who' then
      print(table.concat(server.who(), ', '))
    else
      server.say(line)
    end
  end
  yue.conn(server):close()
end

if command == 'serve' then
  serve()
elseif command == 'join' and name then
  join()
else
  io.stderr:write('usage: chat.lua serve [ADDRESS] | chat.lua join NAME [ADDRESS]\n')
  os.exit(2)
end
