-- A named group over worker threads: their members are reached from the program, and vanish with their thread.
local check = require 'check'

local function room()
  local g = yue.group('rooms')
  local conn
  yue.thread.current:import {
    enter = function()
      conn = yue.peer()
      return g:join(conn, 'in ' .. yue.thread.current.name)
    end,
    say_to_all = function(text) return g.notify_say(text) end,
    size = function() return #g end,
    block = function(path) require('block').hang(path) end,
  }
end

local heard = {}
local us = { say = function(text) table.insert(heard, text) end, name = function() return 'main' end }
local g = yue.group('rooms')
local threads, conns = {}, {}
for i = 1, 3 do
  threads[i] = yue.thread('room' .. i, room)
  conns[i] = yue.socket('thread://room' .. i, { no_cache = true }, us)
  check.equal(conns[i].procs.enter(), true)
end
check.equal(#g, 3)
check.equal(threads[2].procs.size(), 3)

-- The members are the threads' connections to this program: three ways here.
check.equal(g.notify_say('from main'), 3)
check.equal(threads[1].procs.say_to_all('from a thread'), 3)
check.eventually(function() return #heard == 6 end)
local list = g.name()
check.equal({ #list, list[1][3], list[2][3], list[3][3] }, { 3, 'main', 'main', 'main' })
local data = {}
for _, text in g:members() do data[#data + 1] = text end
check.equal(data, { 'in room1', 'in room2', 'in room3' })

-- A thread that does not answer costs only its own entry.
local block = require('block').new()
block:begin { notify_hang = function(path) threads[1].procs.notify_block(path) end }
list = g.timed_name(0.1)
check.equal({ list[1][2], list[2][2], list[3][2] }, { false, true, true })
check.that(list[1][3]:is_a('TimeoutError'))
block:release()
check.eventually(function() return g.timed_name(5)[1][2] end)
block:close()

-- A thread that ends takes its members with it.
threads[2]:close()
check.eventually(function() return #g == 2 end)
check.equal(#g.name(), 2)
for i = 1, 3 do
  conns[i]:close()
  threads[i]:close()
end
check.eventually(function() return #g == 0 end)
check.done()
