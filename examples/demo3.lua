-- Demo 3: the callee decides what a function does, the caller how a call behaves, by a prefix of its name. And a
-- handler may call back whoever is calling it, in the middle of the call.
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

-- notify_: nothing comes back, and nobody waits.
server.notify_note('the door is open')
assert(server.noted() == 1)

-- A name that begins with _ is never callable from outside.
ok, e = pcall(server._cheat)
print(e)
assert(not ok and e:is_a('NoMethodError'))

local character = server.create_character()
print(character)
assert(character == 'a scarred mage')

listener:close()
