-- Channels: order, capacity, closing, time limits, cancelled waits, many fibers.
local check = require 'check'

local function start(fn, ...)
  local fiber = yue.spawn(fn, ...)
  yue.yield() -- it runs until it waits
  return fiber
end

-- Values come out in their order, false among them.
local ch = yue.channel(3)
for _, value in ipairs { 1, false, 'x' } do check.equal(ch:put(value), true) end
check.equal(ch:count(), 3)
check.equal(tostring(ch), 'channel (3 of 3 values)')
check.equal({ ch:get(), ch:get(), ch:get() }, { 1, false, 'x' })
check.equal({ ch:get(0) }, { nil, 'timeout' })

-- A full channel makes its putters wait, in their order; an empty one its getters.
for round = 1, 3 do
  for i = 1, 3 do ch:put(i) end
  check.equal(ch:put('no room', 0), false)
  check.equal(ch:put('no room', 0.001), false)
  local putters = {}
  for i = 1, 4 do putters[i] = start(ch.put, ch, i + 3) end
  check.that(not putters[1]:done())
  for i = 1, 7 do check.equal(ch:get(), i, 'round ' .. round) end
  for i = 1, 4 do check.equal(putters[i]:get(), true) end
  local getters = {}
  for i = 1, 4 do getters[i] = start(ch.get, ch) end
  for i = 1, 4 do ch:put(i * 10) end
  -- Those values have owners: who comes later waits.
  check.equal({ ch:get(0) }, { nil, 'timeout' })
  for i = 1, 4 do check.equal(getters[i]:get(), i * 10) end
end

-- Without a capacity each put waits for its get.
local direct = yue.channel()
local putter = start(direct.put, direct, 'a')
check.that(not putter:done())
check.equal(direct:count(), 0)
check.equal(direct:get(), 'a')
check.equal(putter:get(), true)
local getter = start(direct.get, direct)
check.equal(direct:put('b', 0), true, 'a fiber waits for it')
check.equal(getter:get(), 'b')
check.equal(direct:put('c', 0), false)

-- Time limits
check.equal({ ch:get(0.001) }, { nil, 'timeout' })
getter = start(ch.get, ch, 60)
ch:put('in time')
check.equal(getter:get(), 'in time')

-- A cancelled wait takes no value and leaves none behind.
getter = start(ch.get, ch)
getter:cancel()
check.raises('CancelledError', nil, getter.get, getter)
ch:put(1)
check.equal(ch:get(0), 1)
for i = 1, 3 do ch:put(i) end
putter = start(ch.put, ch, 'never')
local second = start(ch.put, ch, 4)
putter:cancel()
check.raises('CancelledError', nil, putter.get, putter)
check.equal({ ch:get(), ch:get(), ch:get(), ch:get() }, { 1, 2, 3, 4 })
check.equal(second:get(), true)
check.equal({ ch:get(0) }, { nil, 'timeout' })
check.raises('TimeoutError', nil, yue.timeout, 0.001, ch.get, ch)

-- A fiber that was served keeps what it got, whether it is cancelled after that, or was before and has not run since.
for _, order in ipairs { 'served first', 'cancelled first' } do
  local function cancel_and(fiber, serve)
    if order == 'cancelled first' then fiber:cancel() end
    serve()
    fiber:cancel()
  end
  getter = start(function()
    local value = ch:get()
    local ok, e = pcall(yue.yield)
    return value, ok, e.type
  end)
  cancel_and(getter, function() ch:put('kept') end)
  check.equal({ getter:get() }, { 'kept', false, 'CancelledError' }, order)
  for i = 1, 3 do ch:put(i) end
  putter = start(ch.put, ch, 4)
  cancel_and(putter, function() ch:get() end)
  check.equal(putter:get(), true, order)
  check.equal({ ch:get(), ch:get(), ch:get() }, { 2, 3, 4 }, 'its value is in the channel')
end

-- Closing: what is in it can still be taken.
for i = 1, 3 do ch:put(i) end
putter = start(ch.put, ch, 4)
ch:close()
ch:close()
check.raises('RuntimeError', 'closed', putter.get, putter)
check.raises('RuntimeError', 'closed', ch.put, ch, 5)
check.that(ch.closed)
check.contains(tostring(ch), 'closed')
local got = {}
for value in ch do got[#got + 1] = value end
check.equal(got, { 1, 2, 3 })
check.equal({ ch:get() }, { nil, 'closed' })
check.equal({ ch:get(5) }, { nil, 'closed' })
ch = yue.channel(2)
getter = start(ch.get, ch)
ch:close()
check.equal({ getter:get() }, { nil, 'closed' })

-- Several fibers put and several take: each value arrives once.
for _, capacity in ipairs { 0, 1, 7 } do
  local shared, sum, counts = yue.channel(capacity), 0, {}
  local takers, putters = {}, {}
  for i = 1, 5 do
    takers[i] = yue.spawn(function()
      for value in shared do
        counts[value] = (counts[value] or 0) + 1
        sum = sum + value
        if value % 13 == 0 then yue.yield() end
      end
    end)
  end
  for i = 1, 4 do
    putters[i] = yue.spawn(function()
      for k = i, 2000, 4 do
        shared:put(k)
        if k % 7 == 0 then yue.yield() end
      end
    end)
  end
  yue.all(putters)
  shared:close()
  yue.all(takers)
  check.equal(sum, 2000 * 2001 / 2)
  for k = 1, 2000 do check.that(counts[k] == 1) end
end

-- Callbacks and coroutines are fibers like others.
local numbers, timer = yue.channel(), yue.timer(0, 0.001)
timer:bind('tick', function() numbers:put('tick') end)
check.equal(numbers:get(), 'tick')
timer:close()
numbers = yue.channel(1)
local producer = coroutine.wrap(function() for i = 1, 5 do numbers:put(i) end numbers:close() end)
local consumer = yue.spawn(function() local n = 0 for v in numbers do n = n + v end return n end)
producer()
check.equal(consumer:get(), 15)

for _, wrong in ipairs { -1, 0.5, 'x', {}, 0 / 0, math.huge, 2 ^ 25 } do
  check.raises('ArgumentError', 'capacity', yue.channel, wrong)
end
ch = yue.channel(1)
check.raises('ArgumentError', 'not nil', ch.put, ch)
check.raises('ArgumentError', 'seconds', ch.put, ch, 1, 'x')
check.raises('ArgumentError', 'seconds', ch.get, ch, {})

-- A channel belongs to its loop.
local c, listener = check.pair { echo = function(v) return v end }
check.raises('ArgumentError', "an object of yue's", c.echo, ch)
listener:close()
check.done()
