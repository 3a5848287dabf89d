-- Values of fibers, and the two clocks.
local check = require 'check'
local storage = yue.fiber.storage

-- Each fiber has its own table, which lasts as long as the fiber.
storage().user = 'frodo'
check.equal(storage().user, 'frodo')
check.equal(storage(), storage())
check.equal(coroutine.wrap(function() return storage().user end)(), 'frodo', 'a coroutine is no other fiber')

-- A fiber begins with a copy of its starter's.
local child = yue.spawn(function()
  local user = storage().user
  storage().user = 'sam'
  return user, yue.spawn(function() return storage().user end):get()
end)
check.equal({ child:get() }, { 'frodo', 'sam' })
check.equal(storage().user, 'frodo')
local later = yue.fiber(function() return storage().user end)
storage().user = 'pippin'
check.equal(later:run():get(), 'pippin', 'it is copied when the fiber starts')
check.equal(yue.spawn(function() return yue.spawn(function() return storage().user end):get() end):get(), 'pippin')

-- A timer's callbacks have the timer's; those of other events, and handlers of calls, have an empty one.
local seen
local timer = yue.timer(0)
timer:bind('tick', function() seen = storage().user end)
check.eventually(function() return timer.closed end)
check.equal(seen, 'pippin')
local emitter = yue.emitter()
emitter:bind('x', function() seen = next(storage()) == nil end)
emitter:emit 'x'
check.eventually(function() return seen == true end)
local c, listener = check.pair {
  set = function(value)
    local before = storage().value
    storage().value = value
    yue.yield()
    return before, storage().value
  end,
}
for i = 1, 5 do check.equal({ c.set(i) }, { nil, i }) end
local calls = {}
for i = 1, 20 do calls[i] = c.async_set(i) end
for i = 1, 20 do check.equal({ calls[i]:get() }, { nil, i }) end
listener:close()

-- Clocks
local before = yue.now()
yue.sleep(0.01)
check.that(yue.now() - before >= 0.01)
check.that(math.abs(yue.time() - os.time()) < 60)
check.that(math.abs(yue.time() - yue.util.time.now() / 1e6) < 60)
local thread = yue.thread('clock', function() yue.thread.current:import { now = yue.now } end)
local first = yue.now()
local there = thread.procs.now()
check.that(first <= there and there <= yue.now(), 'threads have one clock')
thread:close()
check.done()
