-- The end of groups and of their members: 100 000 joins and closes leave nothing behind, groups are collected, and a
-- call that is running when everything is closed ends.
local check = require 'check'

local function memory()
  collectgarbage()
  collectgarbage()
  return collectgarbage('count')
end

local function resident()
  for line in io.lines('/proc/self/status') do
    local kib = line:match('^VmRSS:%s+(%d+)')
    if kib then return tonumber(kib) end
  end
end

local listener = yue.listen('tcp://127.0.0.1:0', {})
local conn = yue.socket(listener:addr(), { no_cache = true }, nil)

-- Joins and leaves, and groups that come and go.
local function churn(count)
  for i = 1, count do
    local g = yue.group(i % 2 == 0 and 'churn/' .. i or nil)
    check.that(g:join(conn, i))
    if i % 3 == 0 then check.that(g:leave(conn)) end
    if i % 4 == 0 then yue.group('churn/' .. i):leave(conn) end
    if i % 2 == 0 then g:leave(conn) end
    if i % 1000 == 0 then
      collectgarbage()
      yue.yield()
    end
  end
end
churn(10000)
local lua_before, before = memory(), resident()
churn(90000)
local lua_grown, grown = memory() - lua_before, resident() - before
check.that(lua_grown < 2000, ('Lua holds %d KiB more'):format(lua_grown))
check.that(grown < 20000, ('the process holds %d KiB more'):format(grown))

-- Connections that join and close.
local g, named = yue.group(), yue.group('closing')
local function connections(count)
  for i = 1, count do
    local c = yue.socket('tcp://127.0.0.1:1', { no_cache = true }, nil)
    g:join(c, { i })
    named:join(c, { i })
    check.that(#g == 1 and #named == 1)
    c:close()
    check.that(#g == 0 and #named == 0)
    if i % 1000 == 0 then yue.yield() end
  end
end
connections(10000)
lua_before, before = memory(), resident()
connections(90000)
lua_grown, grown = memory() - lua_before, resident() - before
check.that(lua_grown < 2000, ('Lua holds %d KiB more'):format(lua_grown))
check.that(grown < 20000, ('the process holds %d KiB more'):format(grown))

-- A group keeps the connections that it holds; without a name it goes with its object.
do
  local keeper = yue.group()
  keeper:join(yue.socket(listener:addr(), { no_cache = true }, nil))
  collectgarbage()
  collectgarbage()
  yue.sleep(0.01)
  check.equal(#keeper, 1)
end
yue.group('keeps'):join(yue.socket(listener:addr(), { no_cache = true }, nil), 'data')
collectgarbage()
collectgarbage()
yue.sleep(0.01)
for _, data in yue.group('keeps'):members() do check.equal(data, 'data') end
check.equal(#yue.group('keeps'), 1)
for member in yue.group('keeps'):members() do member:close() end
check.equal(#yue.group('keeps'), 0)

-- Procedures keep their group.
local say = yue.group().notify_say
collectgarbage()
collectgarbage()
check.equal(say(), 0)

-- A call whose members end meanwhile.
local last = yue.group('last')
local server = yue.listen('tcp://127.0.0.1:0', { enter = function() last:join(yue.peer()) end })
local over = false
local client = yue.open(server:addr(), { no_cache = true }, {
  never = function() while not over do yue.sleep(0.01) end end,
})
client.enter()
local asked = last.async_timed_never(1000)
yue.sleep(0.01)
server:close()
local list = asked:get()
check.that(not list[1][2] and list[1][3]:is_a('ConnectionLostError'))
-- At the end of the program one is still a member, and one is still asked.
yue.group('end'):join(conn)
yue.group('end').async_timed_never(1000)
over = true
listener:close()
check.done()
yue.die()
