-- Requests above `in_flight_max` are `ServerBusyError`, `retryable`; calls above it fail before they are sent.
local check = require 'check'
return {
  needs = { 'connection' },
  server = function()
    local running = 0
    return {
      -- Ends when the client's function has.
      wait = function(x)
        running = running + 1
        yue.peer().procs.gate()
        running = running - 1
        return x
      end,
      running = function() return running end,
    }, { in_flight_max = 10 }
  end,
  client = function(endpoint)
    local go, open = yue.emitter(), false
    local c = endpoint.open({ timeout = 60 }, { gate = function() if not open then go:wait 'go' end end })
    local futures = {}
    for i = 1, 20 do futures[i] = c.async_wait(i) end
    for i = 11, 20 do
      local e = check.raises('ServerBusyError', nil, futures[i].get, futures[i])
      check.equal(e.retryable, true)
    end
    open = true
    go:emit 'go'
    for i = 1, 10 do check.equal(futures[i]:get(), i) end
    check.equal({ c.wait(7), c.running() }, { 7, 0 })
    open = false
    local few = endpoint.open({ in_flight_max = 5, timeout = 60 }, { gate = function() go:wait 'go' end })
    for i = 1, 5 do futures[i] = few.async_wait(i) end
    local e = check.raises('MessageRefusedError', nil, few.wait, 6)
    check.equal(type(e.retryable), 'boolean')
    check.equal(yue.conn(few):stats().calls_in_flight, 5)
    for i = 1, 5 do futures[i]:cancel() end
  end,
}
