-- A thousand members: each gets every message once and in order, while members join and leave.
local check = require 'check'
local MEMBERS, MESSAGES = 1000, 20
local g = yue.group('many')
local listener = yue.listen('unix://' .. os.tmpname() .. '.socket', {
  enter = function() return g:join(yue.peer()) end,
})
local counts, clients = {}, {}
for i = 1, MEMBERS do
  counts[i] = 0
  clients[i] = yue.open(listener:addr(), { no_cache = true }, {
    tick = function(n)
      check.equal(n, counts[i] + 1)
      counts[i] = n
    end,
    index = function() return i end,
  })
  clients[i].enter()
end
check.equal(#g, MEMBERS)
for n = 1, MESSAGES do
  check.equal(g.notify_tick(n), MEMBERS)
  -- A visitor that comes and goes changes nothing for the others.
  local visitor = yue.socket(listener:addr(), { no_cache = true }, { tick = function() end })
  visitor.procs.enter()
  visitor:close()
  check.eventually(function() return #g == MEMBERS end)
end
local list = g.index()
check.equal(#list, MEMBERS)
local seen = {}
for _, row in ipairs(list) do seen[row[3]] = row[2] end
check.equal(#seen, MEMBERS)
check.eventually(function()
  for i = 1, MEMBERS do
    if counts[i] ~= MESSAGES then return false end
  end
  return true
end)
for i = 1, MEMBERS, 2 do yue.conn(clients[i]):close() end
check.eventually(function() return #g == MEMBERS / 2 end)
check.equal(g.notify_tick(MESSAGES + 1), MEMBERS / 2)
check.eventually(function()
  for i = 2, MEMBERS, 2 do
    if counts[i] ~= MESSAGES + 1 then return false end
  end
  return true
end)
listener:close()
check.equal(#g, 0)
check.done()
