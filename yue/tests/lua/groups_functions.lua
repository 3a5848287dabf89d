-- Functions among the arguments of a message to a group: each member gets one of its own, on this loop.
local check = require 'check'
local g = yue.group('functions')
local listener = yue.listen('tcp://127.0.0.1:0', {
  enter = function() return g:join(yue.peer()) end,
})
local function client(n, options)
  local us = {
    twice = function(f) return f(n) end,
    maker = function() return function() return n * 10 end end,
    keep = function(f) _G['kept' .. n] = f end,
  }
  options = options or {}
  options.no_cache = true
  local procs = yue.open(listener:addr(), options, us)
  procs.enter()
  return procs
end
local clients = { client(1), client(2) }

local list = g.twice(function(n) return n * 2 end)
check.equal({ list[1][2], list[1][3], list[2][2], list[2][3] }, { true, 2, true, 4 })

--- The functions that each member holds, once the collector has run.
local function held()
  collectgarbage()
  local counts = {}
  for member in g:members() do counts[#counts + 1] = member:stats().functions_held end
  return counts[1] .. ' ' .. counts[2]
end
check.eventually(function() return held() == '0 0' end)

-- A reference counts per connection: each member holds it until it drops it.
local called = {}
check.equal(g.notify_keep(function(n) called[#called + 1] = n end), 2)
check.eventually(function() return kept1 and kept2 end)
check.equal(held(), '1 1')
kept1(1)
kept2(2)
check.equal(called, { 1, 2 })
kept1 = nil
check.eventually(function() return held() == '0 1' end)

-- In tables, with a future, with a limit.
check.equal(g.async_twice(function(n) return n end):get()[2][3], 2)
check.equal(g.timed_twice(5, function(n) return n end)[1][3], 1)
check.equal(g.timed_notify_keep(5, print), 2)

-- Results may be functions of the member.
list = g.maker()
check.equal({ list[1][3](), list[2][3]() }, { 10, 20 })

-- A function of one peer cannot be sent to others.
check.raises('ArgumentError', 'args[1]', g.notify_keep, list[1][3])

-- A member that does not know functions does not get the message; the others do.
clients[3] = client(3, { legacy = true })
check.equal(#g, 3)
check.equal(g.notify_keep(print), 2)
list = g.twice(function(n) return n end)
check.equal({ list[1][2], list[2][2], list[3][2] }, { true, true, false })
check.that(list[3][3]:is_a('ArgumentError'))

-- If it is the only one, that is an error.
local one = yue.group()
one:join(list[3][1])
check.raises('ArgumentError', 'does not support function references', one.notify_keep, print)
listener:close()
check.done()
