-- Demo 3: the callee decides what a function does, the caller how a call behaves, by a prefix of its name. And a
-- handler may call back whoever is calling it, in the middle of the call. At the end: a game's tick waits for nobody.
local yue = require 'yue'

local noted = {}

local listener = yue.listen('tcp://127.0.0.1:0', {
  think = function(seconds)
    yue.sleep(seconds)
    return 'thought for ' .. seconds
  end,
  note = function(text) noted[#noted + 1] = text end,
  noted = function() return #noted end,
  _cheat = function() return 'infinite gold' end,

  -- Character making: each question is a call to the client that is calling us.
  create_character = function()
    local player = yue.peer().procs
    local class = player.choose('which class?', { 'warrior', 'mage' })
    local face = player.choose('which face?', { 'young', 'old', 'scarred' })
    return ('a %s %s'):format(face, class)
  end,
})

local server = yue.open(listener:addr(), nil, {
  choose = function(question, options)
    print('  ' .. question .. ' (' .. table.concat(options, ', ') .. ')')
    return options[#options]
  end,
})

-- async_: a future at once. The two calls run at the same time.
local first, second = server.async_think(0.02), server.async_think(0.01)
assert(second:get() == 'thought for 0.01' and first:get() == 'thought for 0.02')

-- timed_: an error when it takes longer than the first argument says, in seconds.
local ok, e = pcall(server.timed_think, 0.01, 5)
print(e)
assert(not ok and e:is_a('TimeoutError'))

-- notify_: nothing comes back, and nobody waits. It says whether the message was taken.
assert(server.notify_note('the door is open'))
assert(server.noted() == 1)

-- A name that begins with _ is never callable from outside.
ok, e = pcall(server._cheat)
print(e)
assert(not ok and e:is_a('NoMethodError'))

local character = server.create_character()
print(character)
assert(character == 'a scarred mage')

listener:close()

-- A game's tick never waits for one player. Of these two one has a slow device: it needs a twentieth of a second for
-- each tick. What it cannot take is left out (`when_full`; by default it would be disconnected, and could join again),
-- and of its own position it is sent the latest only. The other one misses nothing.
local players = {}
local world = yue.listen('tcp://127.0.0.1:0', { when_full = 'drop', output_max = 4e6 }, {
  join = function() players[#players + 1] = yue.peer() end,
})

local slow = yue.thread('slow', function()
  local server
  yue.thread.current:import {
    join = function(address)
      local function compute()
        local stop = yue.util.time.now() + 50000
        while yue.util.time.now() < stop do end
      end
      server = yue.open(address, nil, { tick = compute, moved = function() end })
      server.join()
    end,
  }
end)
slow.procs.join(world:addr())

local seen = 0
local fast = yue.open(world:addr(), nil, { tick = function() seen = seen + 1 end, moved = function() end })
fast.join()

local state, ticks, missed, longest = ('x'):rep(500000), 0, 0, 0
while missed < 5 do
  ticks = ticks + 1
  local began = yue.util.time.now()
  for _, player in ipairs(players) do
    if not player.procs.notify_tick(state) then missed = missed + 1 end
    player:latest('position', 'moved', ticks, ticks)
  end
  longest = math.max(longest, yue.util.time.now() - began)
  yue.sleep(0.01)
end
while seen < ticks do yue.sleep(0.01) end
assert(longest < 1e6, 'a tick waited for a player')
print('the fast player got every tick, the slow one missed ' .. players[1]:stats().notifications_dropped)

world:close()
slow:close()
