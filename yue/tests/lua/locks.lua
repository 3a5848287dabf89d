-- Mutexes, semaphores and events: order, time limits, cancelled waits, errors.
local check = require 'check'

local function start(fn, ...)
  local fiber = yue.spawn(fn, ...)
  yue.yield() -- it runs until it waits
  return fiber
end

-- -- Mutexes

local m = yue.mutex()
check.equal(m:lock(), true)
check.that(m:locked())
check.equal(tostring(m), 'mutex (locked)')
check.raises('RuntimeError', 'would wait for itself', m.lock, m)
m:unlock()
check.that(not m:locked())
check.raises('RuntimeError', 'not locked', m.unlock, m)

-- One at a time, in the order of arrival.
local order, inside = {}, 0
local fibers = {}
for i = 1, 10 do
  fibers[i] = yue.spawn(m.with, m, function(n)
    inside = inside + 1
    check.equal(inside, 1)
    yue.yield()
    order[#order + 1] = n
    inside = inside - 1
    return n, nil, 'x'
  end, i)
end
for i = 1, 10 do check.equal({ fibers[i]:get() }, { i, nil, 'x' }) end
check.equal(order, { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 })

-- A fiber that fails, or is cancelled, inside `with` unlocks it.
check.raises('RuntimeError', 'inside', m.with, m, function() error('inside') end)
check.that(not m:locked())
local e = check.raises('RuntimeError', nil, m.with, m, function() error { 7 } end)
check.equal(e.value, { 7 })
local holder = start(m.with, m, yue.sleep, 60)
check.that(m:locked())
local waiter = start(m.with, m, function() return 'mine' end)
holder:cancel()
check.raises('CancelledError', nil, holder.get, holder)
check.equal(waiter:get(), 'mine')
check.that(not m:locked())

-- Another fiber cannot unlock it.
m:lock()
check.raises('RuntimeError', 'by another fiber', function() yue.spawn(m.unlock, m):get() end)
-- Time limits and cancelled waits
check.equal(yue.spawn(m.lock, m, 0):get(), false)
check.equal(yue.spawn(m.lock, m, 0.001):get(), false)
waiter = start(m.lock, m)
local next_waiter = start(m.with, m, function() return 'next' end)
waiter:cancel()
check.raises('CancelledError', nil, waiter.get, waiter)
m:unlock()
check.equal(next_waiter:get(), 'next')
-- A fiber that was given the mutex has it, whether it is cancelled after that, or was before and has not run since.
for _, order in ipairs { 'locked first', 'cancelled first' } do
  m:lock()
  waiter = start(function()
    local ok = m:lock()
    local slept = pcall(yue.sleep, 0)
    m:unlock()
    return ok, slept
  end)
  if order == 'cancelled first' then waiter:cancel() end
  m:unlock()
  waiter:cancel()
  check.equal({ waiter:get() }, { true, false }, order)
  check.that(not m:locked())
end

-- Coroutines of a fiber are the same fiber.
m:lock()
coroutine.wrap(function() m:unlock() end)()
check.that(not m:locked())
check.raises('ArgumentError', 'function', m.with, m, 5)
check.raises('ArgumentError', 'seconds', m.lock, m, 'x')
check.that(not m:locked())

-- -- Semaphores

local s = yue.semaphore(2)
check.equal(s:acquire(), true)
check.equal(s:acquire(), true)
check.equal(s:available(), 0)
check.equal(s:acquire(1, 0), false)
check.equal(s:acquire(1, 0.001), false)
waiter = start(s.acquire, s)
s:release()
check.equal(waiter:get(), true)
s:release(2)
check.equal(tostring(s), 'semaphore (2 free)')

-- The longest wait is first, even if it is for more.
s:acquire(2)
local many, few = start(s.acquire, s, 2), start(s.acquire, s)
s:release()
yue.yield()
check.that(not many:done() and not few:done())
check.equal(s:acquire(1, 0), false, 'others were first')
s:release()
check.equal(many:get(), true)
check.that(not few:done())
s:release(2)
check.equal(few:get(), true)
check.equal(s:available(), 1)
-- If it gives up, the next one is served.
many = start(s.acquire, s, 5)
few = start(s.acquire, s)
check.that(not few:done())
many:cancel()
check.raises('CancelledError', nil, many.get, many)
check.equal(few:get(), true)
many = start(s.acquire, s, 5, 0.002)
few = start(s.acquire, s)
s:release()
check.equal(many:get(), false)
check.equal(few:get(), true)
check.equal(s:available(), 0)
s:release(2)
s:acquire(2)
waiter = start(s.acquire, s)
waiter:cancel()
s:release(2)
check.equal(waiter:get(), true, 'it was served before it ran')
s:release()
check.equal(s:available(), 2)

-- `with` releases after errors too, and bounds how many run at once.
local running, most = 0, 0
fibers = {}
for i = 1, 20 do
  fibers[i] = yue.spawn(s.with, s, function(n)
    running = running + 1
    most = math.max(most, running)
    yue.yield()
    running = running - 1
    if n % 5 == 0 then error('every fifth') end
    return n
  end, i)
end
for i = 1, 20 do check.equal(fibers[i]:sync(), i % 5 ~= 0) end
check.equal(most, 2)
check.equal(s:available(), 2)
check.equal(yue.semaphore(0):acquire(1, 0), false)

for _, wrong in ipairs { -1, 0.5, 'x', {}, 0 / 0, math.huge } do
  check.raises('ArgumentError', 'permits', yue.semaphore, wrong)
  check.raises('ArgumentError', 'permits', s.acquire, s, wrong)
  check.raises('ArgumentError', 'permits', s.release, s, wrong)
end
check.raises('ArgumentError', 'permits', yue.semaphore)
check.raises('ArgumentError', 'permits', s.acquire, s, 0)
check.raises('ArgumentError', 'seconds', s.acquire, s, 1, 'x')
check.raises('ArgumentError', 'function', s.with, s)
check.equal(s:available(), 2)

-- -- Events

local ev = yue.event()
check.that(not ev:is_set())
check.equal(ev:wait(0), false)
check.equal(ev:wait(0.001), false)
local waiters = {}
for i = 1, 5 do waiters[i] = start(ev.wait, ev) end
local cancelled = start(ev.wait, ev)
cancelled:cancel()
check.raises('CancelledError', nil, cancelled.get, cancelled)
ev:set()
ev:reset() -- those that waited have been woken
for i = 1, 5 do check.equal(waiters[i]:get(), true) end
check.equal(ev:wait(0), false)
ev:set()
ev:set()
check.equal(tostring(ev), 'event (set)')
check.equal(ev:wait(), true)
check.equal(ev:wait(0), true)
check.that(ev:is_set())
check.raises('ArgumentError', 'seconds', ev.wait, ev, 'x')

-- Where no wait is possible, what needs none works, and the rest is refused.
local finalized
do
  local proxy = newproxy(true)
  getmetatable(proxy).__gc = function()
    local free, held = yue.mutex(), yue.mutex()
    held.owner = -1
    finalized = { free:with(function() return 'locked' end), pcall(held.lock, held) }
  end
end
check.eventually(function() collectgarbage() return finalized end)
check.equal(finalized[1], 'locked')
check.equal(finalized[2], false)
check.contains(tostring(finalized[3]), 'finalizer')
check.done()
