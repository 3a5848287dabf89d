-- Tests the chat: starts the server on two loops, and joins it with clients on both. Run it with:  yue test.lua
local yue = require 'yue'

local folder = arg[0]:match '.*/' or ''

-- /proc/self/exe is the running program: this same yue.
local server = yue.process.spawn { '/proc/self/exe', '-c', '2', folder .. 'server.lua', 'tcp://127.0.0.1:0' }
local url = server:line():match '^serving at (http://.*)'
local address = url:gsub('^http', 'ws') .. '/rpc'

--- Waits until something holds.
local function eventually(what, condition)
  local deadline = yue.now() + 20
  while not condition() do
    assert(yue.now() < deadline, what .. ' did not happen')
    yue.sleep(0.01)
  end
end

--- A client, with all that it has heard.
local function connect()
  local client = { texts = {}, members = {}, rooms = {} }
  client.server = yue.open(address, { no_cache = true }, {
    entered = function(room) client.entered, client.members, client.rooms = room, room.members, room.rooms end,
    line = function(line) table.insert(client.texts, (line.name or '*') .. ': ' .. line.text) end,
    members = function(names) client.members = names end,
    room = function(name, count) client.rooms[name] = count end,
  })
  return client
end

local function hears(client, text)
  eventually(text, function()
    for _, heard in ipairs(client.texts) do
      if heard == text then return true end
    end
  end)
end

local function test()
  -- The page is served.
  assert(yue.http.get(url .. '/').body:find '<title>')
  assert(yue.http.get(url .. '/yue.js').headers['content-type'] == 'text/javascript')

  -- Enough clients for both loops: the kernel chooses the loop of each.
  local clients = {}
  for i = 1, 12 do
    clients[i] = connect()
    assert(clients[i].server.join('hall', 'member ' .. i, 'key ' .. i) == nil)
    eventually('the room', function() return #clients[i].members == i end)
  end
  clients[1].server.say ' hello\27[2J\n'
  for _, client in ipairs(clients) do
    hears(client, 'member 1: hello [2J')
    eventually('presence', function() return #client.members == 12 and client.rooms.hall == 12 end)
  end

  -- A name belongs to one member; a page that comes again with its key gets it back.
  local stranger = connect()
  assert(stranger.server.join('hall', 'member 1', 'another key') == 'there is a member 1 in this room already')
  assert(stranger.server.say 'nobody hears this' == 'join a room first')
  local again = connect()
  assert(again.server.join('hall', 'member 1', 'key 1') == nil)
  eventually('the room', function() return #again.members == 12 end)
  -- History: twelve came in, and one spoke.
  local lines = again.entered.lines
  assert(#lines == 13 and lines[13].text == 'hello [2J' and lines[13].name == 'member 1' and not lines[12].name)
  yue.conn(clients[1].server):close()

  -- Rooms do not hear each other.
  again.server.join('kitchen', 'cook', 'key 1')
  hears(clients[2], '*: member 1 left')
  again.server.say 'dinner is ready'
  hears(again, 'cook: dinner is ready')
  clients[2].server.say 'the last line'
  for i = 2, 12 do
    hears(clients[i], 'member 2: the last line')
    assert(not table.concat(clients[i].texts):find 'dinner')
    eventually('the count of the other room', function() return clients[i].rooms.kitchen == 1 end)
  end

  -- Bad input is refused and harms nobody.
  for _, bad in ipairs { '', ('x'):rep(1001), '\n' } do
    assert(clients[2].server.say(bad) == 'a line has 1 to 1000 characters')
  end
  for _, bad in ipairs { '', ('x'):rep(25), '\n' } do
    assert(stranger.server.join('hall', bad, 'key') == 'a name has 1 to 24 characters')
  end

  -- A member whose connection is lost has left.
  yue.conn(clients[12].server):close()
  hears(clients[2], '*: member 12 left')
end

-- The server is ended in any case.
yue.try { test, finally = function() server:kill() end }
print 'the chat works'
