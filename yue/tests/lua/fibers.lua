-- Fibers: starting, naming, cancelling, thousands of them.
local check = require 'check'

local f = yue.fiber(function(a, b) return a + b, yue.fiber.current().name end, 'adder')
check.equal(f.name, 'adder')
check.contains(tostring(f), 'adder')
check.that(not f:done())
check.equal(f:run(1, 2), f)
check.equal({ f:sync() }, { true, 3, 'adder' })
check.raises('RuntimeError', 'started already', f.run, f)
check.equal(yue.spawn(function(...) return select('#', ...) end, nil, nil):get(), 2)

-- What a fiber raises is an error object, whatever it was.
check.raises('RuntimeError', 'fibers.lua', function() yue.spawn(function() error('x') end):get() end)
local e = check.raises('RuntimeError', nil, function() yue.spawn(function() error({ 1 }) end):get() end)
check.equal(e.value, { 1 })
check.raises('RuntimeError', 'nil', function() yue.spawn(function() error() end):get() end)
local function deep() return 1 + deep() end
check.raises('RuntimeError', nil, function() yue.spawn(deep):get() end)
check.raises('RuntimeError', nil, function()
  yue.spawn(function() error(setmetatable({}, { __tostring = function() error('worse') end })) end):get()
end)

-- A fiber's main function is not a coroutine: LuaJIT's message gets advice. In a coroutine it needs none.
e = check.raises('RuntimeError', 'call yue.yield()', function() yue.spawn(function() coroutine.yield() end):get() end)
check.contains(e.msg, 'attempt to yield across C-call boundary')
local in_coroutine = coroutine.wrap(function()
  return yue.try { coroutine.yield, catch = function(failure) return failure.msg end }
end)()
check.that(in_coroutine:find 'across C%-call boundary$', in_coroutine)
check.equal({ coroutine.wrap(function() coroutine.yield(1) end)() }, { 1 })

-- cancel: what it waits for raises; it is done when it has ended.
local reached
f = yue.spawn(function()
  local ok, failure = pcall(yue.sleep, 60)
  reached = not ok and failure.type
  yue.shield(yue.sleep, 0.01)
  error(failure, 0)
end)
yue.yield()
check.that(f:cancel())
check.that(not f:done(), 'it tidies up')
check.raises('CancelledError', nil, f.get, f)
check.equal(reached, 'CancelledError')
check.that(not f:cancel(), 'there is nothing left to cancel')

-- One that ignores the cancel keeps its result.
f = yue.spawn(function() pcall(yue.sleep, 60) return 'my way' end)
yue.yield()
f:cancel()
check.equal(f:get(), 'my way')

-- One that never started
f = yue.fiber(function() return 1 end)
check.that(f:cancel())
check.raises('CancelledError', nil, f.get, f)
check.raises('CancelledError', nil, f.run, f)

-- One that cancels itself finds out at its next wait.
check.raises('CancelledError', nil, function()
  yue.spawn(function()
    yue.fiber.current():cancel()
    yue.sleep(0)
  end):get()
end)

-- The list has those that run.
f = yue.fiber(yue.sleep, 'a sleeper'):run(60)
local listed = {}
for _, entry in ipairs(yue.fiber.list()) do listed[entry.name or ''] = entry.fiber end
check.equal(listed['a sleeper'], f)
f:cancel()
f:sync()
check.equal(#yue.fiber.list(), 0)

-- Thousands
local sum, fibers = 0, {}
for i = 1, 5000 do
  fibers[i] = yue.spawn(function()
    yue.sleep(0.001)
    sum = sum + i
  end)
end
yue.all(fibers)
check.equal(sum, 5000 * 5001 / 2)
for i = 1, 2000 do fibers[i] = yue.spawn(yue.sleep, 3600) end
yue.yield()
for i = 1, 2000 do fibers[i]:cancel() end
for i = 1, 2000 do check.that(not fibers[i]:sync()) end
check.equal(#yue.fiber.list(), 0)

-- The main fiber is one too.
local main = yue.fiber.current()
check.equal(main, yue.fiber.current())
check.equal(main.name, 'main')
check.that(not main:done())

for _, wrong in ipairs { 1, 'x', {}, true } do
  check.raises('ArgumentError', 'function', yue.fiber, wrong)
  check.raises('ArgumentError', 'function', yue.spawn, wrong)
end
check.raises('ArgumentError', 'function', yue.spawn)
check.raises('ArgumentError', 'name', yue.fiber, print, {})
check.done()
