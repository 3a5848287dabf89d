-- Demo 4: many servers, many threads, one syntax. A few threads on one machine are a distributed system to play with.
local yue = require 'yue'

-- A database, in a thread of its own. The function has no upvalues: it runs in another Lua.
local database = yue.thread('database', function()
  local rows = {}
  yue.thread.current:import {
    put = function(key, value) rows[key] = value end,
    get = function(key) return rows[key] end,
  }
end)

-- Two worlds, also threads. They use the database as if it were an imported library.
local function world()
  local db = yue.open('thread://database')
  yue.thread.current:import {
    enter = function(player)
      local visits = (db.get(player) or 0) + 1
      db.put(player, visits)
      return ('%s enters %s, visit %d'):format(player, yue.thread.current.name, visits)
    end,
  }
end
local worlds = { yue.thread('forest', world), yue.thread('desert', world) }

-- The gate is a server on the network. It hands players on to the worlds; the player sees none of this.
local listener = yue.listen('tcp://127.0.0.1:0', {
  enter = function(where, player) return yue.open('thread://' .. where).enter(player) end,
})

local gate = yue.open(listener:addr())
print(gate.enter('forest', 'frodo'))
print(gate.enter('desert', 'sam'))
local last = gate.enter('desert', 'frodo')
print(last)
assert(last == 'frodo enters desert, visit 2')

listener:close()
for _, thread in ipairs(worlds) do thread:close() end
database:close()
