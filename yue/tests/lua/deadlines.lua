-- With `cancel = true` a caller's timeout reaches the handler as a deadline, and through it whomever it calls; a cancel
-- cancels the handler.
local check = require 'check'
local started, ended = {}, {}
-- The deadline and the cancel that follows it race.
local function in_time(name)
  local how = check.eventually(function() return ended[name] end, name .. ' still waits')
  check.that(how == 'TimeoutError' or how == 'CancelledError', how)
end
-- On a machine that is busy the time may be over before the handler has started: then once more, with more time.
local function times_out(name, call)
  local seconds = 0.02
  repeat
    started[name], ended[name] = nil, nil
    check.raises('TimeoutError', nil, call, seconds)
    seconds = seconds * 2
  until started[name]
  in_time(name)
end
local function blocks(name)
  return function(...)
    started[name] = true
    local ok, e = pcall(...)
    ended[name] = ok and 'done' or e.type
    if not ok then error(e, 0) end
  end
end

local cancel = { cancel = true }
local back = yue.listen('tcp://127.0.0.1:0', cancel, { slow = function() blocks 'back' (yue.sleep, 60) end })
local back_address = back:addr()
local listener = yue.listen('tcp://127.0.0.1:0', cancel, {
  sleep = function() blocks 'sleep' (yue.sleep, 60) end,
  relay = function() blocks 'relay' (yue.open(back_address).timed_slow, 60) end,
  future = function() blocks 'future' (function() yue.open(back_address).timed_async_slow(60):get() end) end,
  child = function() yue.spawn(blocks 'child', yue.sleep, 60):get() end,
  tidy = function()
    yue.try {
      function() started.tidy = true yue.sleep(60) end,
      finally = function() yue.sleep(0.005) ended.tidy = true end,
    }
  end,
})
local c = yue.open(listener:addr(), { no_cache = true }, nil)

times_out('sleep', function(seconds) c.timed_sleep(seconds) end)
times_out('back', function(seconds) c.timed_relay(seconds) end)
in_time 'relay'
times_out('future', function(seconds) c.timed_future(seconds) end)
times_out('sleep', function(seconds) yue.timeout(seconds, c.sleep) end)

-- The options and yue.config have their say where the call has none.
check.equal(yue.config.timeout, 5)
times_out('sleep', function(seconds)
  yue.config.timeout = seconds
  check.equal(yue.config.timeout, seconds)
  c.sleep()
end)
yue.config.timeout = 5
times_out('sleep', function(seconds) yue.open(listener:addr(), { timeout = seconds }, nil).sleep() end)

-- Cancels
started, ended = {}, {}
local f = c.async_sleep()
check.eventually(function() return started.sleep end)
f:cancel()
check.equal(check.eventually(function() return ended.sleep end), 'CancelledError')
started, ended = {}, {}
local fiber = yue.spawn(c.sleep)
check.eventually(function() return started.sleep end)
fiber:cancel()
check.raises('CancelledError', nil, fiber.get, fiber)
check.equal(check.eventually(function() return ended.sleep end), 'CancelledError')
started, ended = {}, {}
fiber = yue.spawn(c.relay)
check.eventually(function() return started.back end)
fiber:cancel()
check.eventually(function() return ended.relay and ended.back end, 'a cancel travels on')
-- finally runs whole.
f = c.async_tidy()
check.eventually(function() return started.tidy end)
f:cancel()
check.eventually(function() return ended.tidy end)

for _, wrong in ipairs { 0, -1, 'x', 0 / 0, {} } do
  check.raises('ArgumentError', 'timeout', function() yue.config.timeout = wrong end)
end
check.raises('ArgumentError', 'no setting', function() yue.config.nonsense = 1 end)
check.equal(yue.config.nonsense, nil)
back:close()
listener:close()
check.done()
