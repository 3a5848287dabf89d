--! stderr: the handler of fails failed
-- What each method has done, from `listener:stats()`; names that strangers invent take no memory.
local check = require 'check'
local yue = require 'yue'
local c, listener = check.pair({
  quick = function(...) return ... end,
  nested = { slow = function(s) yue.sleep(s) end },
  fails = function() error 'no' end,
  calls_back = function(f) return f() end,
}, { mine = function() return 'mine' end })
local unused = { connections = 0, requests_in_flight = 0, memory = 0, methods = {} }
unused.handshakes, unused.handshakes_failed = 0, 0
unused.datagrams_dropped, unused.peers_evicted = 0, 0
check.equal(listener:stats(), unused)
for i = 1, 3000 do check.equal(c.quick(i), i) end
c.nested.slow(0.05)
for _ = 1, 3 do check.raises('RuntimeError', nil, c.fails) end
c.notify_quick()
check.equal(c.calls_back(function() return 5 end), 5)
for i = 1, 3000 do check.raises('NoMethodError', nil, c['no' .. i]) end

local stats = check.eventually(function()
  local stats = listener:stats()
  return stats.methods.quick.calls == 3001 and stats
end)
check.equal(stats.connections, 1)
local methods, count = stats.methods, 0
for _ in pairs(methods) do count = count + 1 end
check.equal(count, 4, 'names that do not exist are not counted')
check.equal(methods.quick.errors, 0)
check.that(methods.quick.time > 0 and methods.quick.time < 10, methods.quick.time)
check.equal(methods['nested.slow'].calls, 1)
check.that(methods['nested.slow'].time >= 0.05)
check.equal({ methods.fails.calls, methods.fails.errors }, { 3, 3 })

-- Functions that were passed as values are one row; they are ours here.
local ours = yue.conn(c):stats().methods
check.equal(ours['(functions)'].calls, 1)
check.equal(ours.mine, nil)

-- A program may make up names without end.
for i = 1, 1500 do listener.namespace['made' .. i] = function() end end
local futures = {}
for i = 1, 1500 do futures[i] = c['async_made' .. i]() end
yue.all(futures)
count, methods = 0, listener:stats().methods
for _ in pairs(methods) do count = count + 1 end
check.equal(count, 1001)
check.equal(methods['(others)'].calls, 1500 - 996)

local future = c.nested.async_slow(0.2)
check.eventually(function() return listener:stats().requests_in_flight == 1 end)
future:get()
listener:close()
check.equal(listener:stats().methods.fails.errors, 3, 'it is still told once it is closed')
check.done()
