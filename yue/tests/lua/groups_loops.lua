--! options: -c 2
--! stderr: the handler of fail failed
-- A named group is the same on every loop of a program: members of one are reached from the other.
local check = require 'check'
local ffi = require 'ffi'
ffi.cdef 'int getpid(void);'
local index = yue.thread.current.index
local g = yue.group('all')
local address = ('unix:///tmp/yue-groups-%d-%d'):format(ffi.C.getpid(), index)
local here
local listener = yue.listen(address, {
  enter = function(name)
    here = yue.peer()
    yue.group('player/' .. name):join(here)
    return g:join(here, { name = name, loop = index })
  end,
})

-- Each loop has one member.
local heard, hits, over = {}, 0, false
local client = yue.open(address, { no_cache = true }, {
  say = function(...) table.insert(heard, { ... }) end,
  where = function(...) return index, ... end,
  maker = function() return print end,
  fail = function() error('no') end,
  never = function() while not over do yue.sleep(0.01) end end,
  hit = function() hits = hits + 1 end,
})
local name = index == 1 and 'frodo' or 'sam'
local other = index == 1 and 'sam' or 'frodo'
check.equal(client.enter(name), true)
check.eventually(function() return #g == 2 end)

-- Iteration shows both, with their data.
local there
local seen = {}
for conn, data in g:members() do
  seen[data.name] = data.loop
  if data.loop ~= index then there = conn else check.that(conn == here) end
end
check.equal(seen, { frodo = 1, sam = 2 })
check.contains(tostring(there), 'on another loop')
check.equal(there:addr(), there.address)

-- Both loops wait for each other at these points.
local function meet(point)
  yue.group('point/' .. point):join(here)
  check.eventually(function() return #yue.group('point/' .. point) == 2 end)
end

-- Notifications: to both, in the order of each sender.
meet(1)
for n = 1, 500 do check.equal(g.notify_say(index, n), 2) end
check.eventually(function() return #heard == 1000 end)
local last = { 0, 0 }
for _, message in ipairs(heard) do
  check.equal(message[2], last[message[1]] + 1)
  last[message[1]] = message[2]
end
meet(2)

-- Calls: an entry for each, with its own results.
local list = g.where('a', nil, 'b')
check.equal(#list, 2)
for _, row in ipairs(list) do
  check.equal(row[2], true)
  check.equal(row.n, 6)
  check.equal({ row[4], row[5], row[6] }, { 'a', nil, 'b' })
  check.equal(row[1] == here, row[3] == index)
end
check.equal(g.async_where():get()[1][2], true)
for _, row in ipairs(g.fail()) do
  check.that(not row[2] and row[3]:is_a('RuntimeError'))
  check.contains(row[3].msg, 'no')
end
for _, row in ipairs(g.timed_never(0.05)) do check.that(not row[2] and row[3]:is_a('TimeoutError')) end
for _, row in ipairs(g.nothing()) do check.that(not row[2] and row[3]:is_a('NoMethodError')) end

-- A player is reached by name, wherever it is connected.
local player = yue.group('player/' .. other)
check.equal({ player:ask('where', 'hello') }, { 3 - index, 'hello' })
check.equal(player:ask('timed_where', 5), 3 - index)
check.equal(player:ask('async_where'):get(), 3 - index)
check.equal(player:ask('notify_hit'), true)
check.equal(player.notify_hit(), 1)
check.raises('RuntimeError', 'no', player.ask, player, 'fail')
check.raises('TimeoutError', nil, player.ask, player, 'timed_never', 0.02)
check.equal(there.procs.where(), 3 - index)
check.equal(there.procs.notify_hit(), true)
check.eventually(function() return hits == 3 end)

-- Functions work on one loop only.
check.raises('ArgumentError', 'a function cannot be sent to the group all: 1 of its members', g.notify_say, print)
check.raises('ArgumentError', 'a function cannot be sent', g.say, { deep = { print } })
check.raises('ArgumentError', 'another loop', there.procs.say, print)
for _, row in ipairs(g.maker()) do
  check.equal(row[2], row[1] == here)
  if not row[2] then check.contains(row[3].msg, 'contains a function') end
end

-- A member of another loop cannot leave from here, but can be closed.
check.raises('ArgumentError', 'belongs to another loop', g.leave, g, there)
check.raises('ArgumentError', 'g:join takes a connection', g.join, g, there)
check.raises('ArgumentError', 'args[1]', g.notify_say, there)
meet(3)
if index == 1 then
  check.eventually(function() return #yue.group('ready') == 1 end)
  for conn, data in g:members() do
    if data.loop == 2 then conn:close('enough') end
  end
  check.eventually(function() return #g == 1 end)
  check.raises('ConnectionLostError', 'has left', there.procs.where)
  check.equal(there.procs.notify_hit(), false)
  check.raises('ConnectionLostError', 'has no member', player.ask, player, 'where')
else
  yue.group('ready'):join(here)
  check.eventually(function() return #g == 1 end)
  check.equal(#yue.group('player/sam'), 0)
end
check.equal(g.notify_say('end'), 1)
over = true
-- The other loop may still look.
yue.sleep(0.2)
listener:close()
check.done()
