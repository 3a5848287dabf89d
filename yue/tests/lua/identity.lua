--! args: one two=2
--! stdout: <1>	<text>	<nil>
-- What a fiber is to Lua's library: its main function is the main thread's; print; arg and the script's arguments.
local check = require 'check'
local arguments = { ... }

-- coroutine.running is nil in the main function of any fiber, and the coroutine in one.
check.equal(coroutine.running(), nil)
check.equal(select('#', coroutine.running()), 1)
check.equal(yue.spawn(function() yue.yield() return coroutine.running() end):get(), nil)
local server, listener = check.pair { running = function() return type(coroutine.running()) end }
check.equal(server.running(), 'nil')
local inside = coroutine.wrap(function()
  local before = coroutine.running()
  yue.sleep(0.001)
  return before, coroutine.running(), server.running()
end)
local before, after, there = inside()
check.equal(type(before), 'thread')
check.that(rawequal(before, after))
check.equal(there, 'nil')
listener:close()

-- print is C, asks for the global tostring, and demands a string of it.
check.equal(debug.getinfo(print).what, 'C')
check.equal(pcall(string.dump, print), false)
local original = tostring
function tostring(value) return '<' .. original(value) .. '>' end
print(1, 'text', nil)
function tostring() return {} end
local ok, message = pcall(print, 1)
tostring = original
check.equal(ok, false)
check.contains(message, "'tostring' must return a string to 'print'")
-- A value may wait while it is shown.
print(setmetatable({}, { __tostring = function() yue.sleep(0.001) return 'waited' end }))

-- arg and ... as lua sets them.
check.equal(arguments, { 'one', 'two=2' })
check.equal({ arg[1], arg[2], #arg }, { 'one', 'two=2', 2 })
check.equal(arg[0], yue.args[0])
check.contains(arg[0], 'identity.lua')
check.that(arg[-1] and not arg[1 - 100])
local lowest = 0
while arg[lowest - 1] do lowest = lowest - 1 end
check.contains(arg[lowest], 'yue')
check.done()
