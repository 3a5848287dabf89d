-- A handler that has started runs to its end, whatever its caller does.
local check = require 'check'
return {
  server = function()
    local ended, go = {}, yue.emitter()
    return {
      work = function(name)
        yue.peer().procs.started(name)
        local ok, went = pcall(go.wait, go, 'go')
        ended[name] = ok and went
      end,
      go = function() go:emit 'go' end,
      ended = function() return yue.map(ended) end,
    }
  end,
  client = function(endpoint)
    local started = {}
    local c = endpoint.open(nil, { started = function(name) started[name] = true end })
    -- On a machine that is busy the time may be over before the handler has started.
    local seconds = 0.05
    repeat
      check.raises('TimeoutError', nil, c.timed_work, seconds, 'timed')
      seconds = seconds * 2
    until started.timed
    local future = c.async_work 'cancelled'
    check.eventually(function() return started.cancelled end)
    future:cancel()
    local fiber = yue.spawn(c.work, 'fiber')
    check.eventually(function() return started.fiber end)
    fiber:cancel()
    fiber:sync()
    check.eventually(function()
      c.go()
      local ended = c.ended()
      return ended.timed ~= nil and ended.cancelled ~= nil and ended.fiber ~= nil
    end)
    check.equal(c.ended(), { timed = true, cancelled = true, fiber = true })
  end,
}
