--! stderr: the handler of fail failed
-- Groups of connections on one loop: who is a member, what members get, what calls return, what is refused.
local check = require 'check'

local lobby = yue.group('lobby')
check.that(yue.group('lobby') == lobby, 'a name is one group')
check.that(yue.group('lobby ') ~= lobby)
check.that(yue.group() ~= yue.group())
check.equal(tostring(lobby), 'group lobby')
check.equal(tostring(yue.group()), 'group')
check.equal(#lobby, 0)
check.equal(lobby.notify_say('nobody'), 0)
check.equal(lobby.say('nobody'), {})

local peers = {}
local listener = yue.listen('tcp://127.0.0.1:0', {
  enter = function(name)
    peers[name] = yue.peer()
    return lobby:join(yue.peer(), { name = name })
  end,
})

local heard, clients, over = {}, {}, false
local function client(name)
  heard[name] = {}
  local function hear(...) table.insert(heard[name], { ... }) end
  clients[name] = yue.open(listener:addr(), { no_cache = true }, {
    say = hear,
    chat = { say = function(...) hear('chat', ...) end, deep = { name = function() return name end } },
    name = function() return name, nil, 7, nil end,
    fail = function() if name == 'sam' then error { code = 3 } end return 'fine' end,
    nap = function()
      while name == 'sam' and not over do yue.sleep(0.01) end
      return name
    end,
    async_odd = function() return 'odd' end,
    join = function(...) return 'joined', ... end,
  })
  check.equal(clients[name].enter(name), true)
end
for _, name in ipairs { 'frodo', 'sam', 'pippin' } do client(name) end
check.equal(#lobby, 3)

-- Members come in the order in which they joined, with their data.
local function names(g)
  local list = {}
  for conn, data in g:members() do
    check.that(conn == peers[data.name])
    list[#list + 1] = data.name
  end
  return list
end
check.equal(names(lobby), { 'frodo', 'sam', 'pippin' })
check.equal(lobby:join(peers.sam, { name = 'sam', level = 2 }), true)
check.equal(names(lobby), { 'frodo', 'sam', 'pippin' })
check.equal(#lobby, 3)

-- Notifications: in order, to each, under nested names, mixed with those of the connection itself.
check.equal(lobby.notify_say('hello', nil, 2), 3)
check.equal(lobby.chat.notify_say('nested'), 3)
check.equal(peers.sam.procs.notify_say('alone'), true)
check.equal(lobby.timed_notify_say(5, 'timed'), 3)
check.equal({ lobby.async_notify_say('async'):sync() }, { true, 3 })
check.equal({ lobby.async_timed_notify_say(5, 'both'):sync() }, { true, 3 })
local say = lobby.notify_say
check.equal(say('last'), 3)
for name in pairs(clients) do
  check.eventually(function() return #heard[name] == (name == 'sam' and 7 or 6) end)
end
local hello = { 'hello', nil, 2 }
check.equal(heard.frodo, { hello, { 'chat', 'nested' }, { 'timed' }, { 'async' }, { 'both' }, { 'last' } })
check.equal(heard.sam, { hello, { 'chat', 'nested' }, { 'alone' }, { 'timed' }, { 'async' }, { 'both' }, { 'last' } })

-- Calls: an entry for each member, in the same order; nils keep their places.
local function entry(conn, ...) return { conn, true, n = select('#', ...) + 2, ... } end
local list = lobby.name()
check.equal(#list, 3)
for i, name in ipairs { 'frodo', 'sam', 'pippin' } do
  local row = list[i]
  check.that(row[1] == peers[name] and row[2] == true)
  check.equal(row.n, 6)
  check.equal({ row[3], row[4], row[5], row[6] }, { name, nil, 7, nil })
end
check.equal(lobby.chat.deep.name()[2][3], 'sam')
check.equal(lobby.async_name():get()[3][3], 'pippin')
check.equal(lobby['=async_odd']()[1][3], 'odd')
check.equal(lobby['=join'](1)[1][4], 1)
check.equal(lobby.chat.deep.timed_name(5)[1][3], 'frodo')

-- An error is its member's own.
list = lobby.fail()
check.equal({ list[1][2], list[1][3], list[2][2], list[3][3] }, { true, 'fine', false, 'fine' })
check.equal(list[2][3].value, { code = 3 })
check.equal(list[2].n, 3)
list = lobby.nothing()
check.that(not list[1][2] and list[1][3]:is_a('NoMethodError'))

-- One that does not answer costs only its own entry.
list = lobby.timed_nap(0.05)
check.equal({ list[1][3], list[2][2], list[3][3] }, { 'frodo', false, 'pippin' })
check.that(list[2][3]:is_a('TimeoutError'))
list = lobby.async_timed_nap(0.05):get()
check.that(list[2][3]:is_a('TimeoutError'))

-- A call that is given up, by its fiber and by its future.
local fiber = yue.spawn(function() return lobby.timed_nap(1000) end)
yue.sleep(0.01)
fiber:cancel()
check.that(select(2, fiber:sync()):is_a('CancelledError'))
local future = lobby.async_timed_nap(1000)
check.that(not future:done())
check.that(future:cancel())
check.that(select(2, future:sync()):is_a('CancelledError'))
check.raises('TimeoutError', nil, yue.timeout, 0.02, function() return lobby.timed_nap(1000) end)
check.eventually(function() return peers.sam:stats().calls_in_flight == 0 end)

-- A group of one.
local one = yue.group('player/sam')
check.raises('ConnectionLostError', 'group player/sam has no member', one.ask, one, 'name')
one:join(peers.sam)
check.equal({ one:ask('name') }, { 'sam', nil, 7, nil })
check.equal(one:ask('chat.deep.name'), 'sam')
check.equal(one:ask('timed_name', 5), 'sam')
check.equal(one:ask('async_name'):get(), 'sam')
check.equal(one:ask('notify_say', 'one'), true)
check.raises('RuntimeError', nil, one.ask, one, 'fail')
check.raises('ArgumentError', 'group lobby has 3 members', lobby.ask, lobby, 'name')
check.raises('ArgumentError', 'the name of a procedure, not nil', one.ask, one)

-- Members leave: by request, by closing here, by closing there.
check.equal(one:leave(peers.sam), true)
check.equal(one:leave(peers.sam), false)
check.equal(#one, 0)
peers.frodo:close()
check.equal(names(lobby), { 'sam', 'pippin' })
check.equal(lobby:join(peers.frodo), false)
yue.conn(clients.pippin):close()
check.eventually(function() return #lobby == 1 end)
check.equal(names(lobby), { 'sam' })
check.equal(lobby.notify_say('who is left'), 1)

-- An opened connection may be a member, too: it stays while it reconnects, and until it is closed.
local servers = yue.group()
local conn = yue.socket(listener:addr(), { no_cache = true }, nil)
check.equal(servers:join(conn, 'data'), true)
check.equal(servers.enter('bilbo')[1][3], true)
peers.bilbo:close()
check.equal(#servers, 1)
check.eventually(function() return servers.enter('bilbo')[1][3] == true end)
for member, data in servers:members() do check.that(member == conn and data == 'data') end
conn:close()
check.equal(#servers, 0)
check.eventually(function() return #lobby == 1 end)

-- Mistakes are named.
local g = yue.group()
check.raises('ArgumentError', 'g:join takes a connection, such as yue.peer() or yue.socket(…) return, not the number 5',
  g.join, g, 5)
check.raises('ArgumentError', 'not nil', g.join, g)
check.raises('ArgumentError', 'use yue.conn(procs)', g.join, g, clients.sam)
check.raises('ArgumentError', 'write g:join(…), with a colon', g.join, peers.sam)
check.raises('ArgumentError', 'write g:leave(…)', g.leave, 7, peers.sam)
check.raises('ArgumentError', 'g:leave takes a connection', g.leave, g, 'sam')
check.raises('ArgumentError', 'yue.group takes a name, or nothing, not the number 5', yue.group, 5)
check.raises('ArgumentError', 'yue.group takes a name', yue.group, '')
check.raises('ArgumentError', 'not nil', yue.group, nil, 1)
check.raises('ArgumentError', 'UTF-8', yue.group, '\255')
check.raises('ArgumentError', 'a group cannot be assigned to', function() g.x = 1 end)
check.raises('ArgumentError', 'the procedures of a group cannot be assigned to', function() g.chat.x = 1 end)
check.raises('ArgumentError', 'args[2]', lobby.notify_say, 1, coroutine.create(print))
check.raises('ArgumentError', 'args[1]', lobby.say, g)
check.raises('ArgumentError', 'args[1]', lobby.say, lobby.chat)
check.raises('ArgumentError', 'args[1]', lobby.say, peers.sam)
check.raises('ArgumentError', 'seconds', lobby.timed_name)
check.raises('ArgumentError', 'seconds', lobby.timed_notify_say, 'x')
check.raises('ArgumentError', 'the data of a member of a named group', lobby.join, lobby, peers.sam, print)
check.equal(names(lobby), { 'sam' }, 'a refused join changes nothing')

-- Data of a group without a name is not copied.
local data = { fn = print }
g:join(peers.sam, data)
for _, same in g:members() do check.that(same == data) end

-- It is no error to use a group in a callback, in a coroutine, while it changes.
local co = coroutine.wrap(function() return lobby.name()[1][3] end)
check.equal(co(), 'sam')
for member in g:members() do
  check.equal(g:leave(member), true)
  check.equal(#g, 0)
end
over = true
listener:close()
check.eventually(function() return #lobby == 0 end)
check.done()
