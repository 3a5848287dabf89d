--! options: --watchdog 0
-- A time limit counts from the moment it is set, whatever the fiber computed before.
local check = require 'check'
local now = yue.util.time.now
local function compute(seconds)
  local over = now() + seconds * 1e6
  while now() < over do end
end

local c, listener = check.pair { nap = function(seconds) yue.sleep(seconds) return 'slept' end }
c.nap(0)
local short = yue.open(listener:addr(), { timeout = 0.5, no_cache = true }, nil)
short.nap(0)

local function after_computing(call)
  yue.sleep(0.001)
  compute(0.6)
  check.equal(call(), 'slept')
end
after_computing(function() return c.timed_nap(0.5, 0.01) end)
after_computing(function() return c.timed_async_nap(0.5, 0.01):get() end)
after_computing(function() return short.nap(0.01) end)
after_computing(function() return yue.timeout(0.5, c.nap, 0.01) end)
after_computing(function()
  local event = yue.emitter()
  yue.spawn(function() yue.sleep(0.01) event:emit('x', 'slept') end)
  return select(2, event:wait('x', 0.5))
end)
after_computing(function()
  yue.thread('quick', function() end, { timeout = 0.5 }):close()
  return 'slept'
end)

-- An answer that came while the loop was busy is not lost to the limit that passed meanwhile.
local t = yue.thread('napping', function()
  yue.thread.current:import { nap = function(seconds) yue.sleep(seconds) return 'slept' end }
end)
local napping = t.procs
napping.nap(0)
local future = napping.timed_async_nap(0.2, 0.05)
yue.sleep(0.005)
compute(0.4)
check.equal(future:get(), 'slept')
t:close()

-- A timer whose interval is too small for the clock still ticks.
local ticks = 0
local timer = yue.timer(0, 5e-324)
timer:bind('tick', function() ticks = ticks + 1 end)
check.eventually(function() return ticks > 3 end, 'it ticks')
timer:close()
listener:close()
check.done()
