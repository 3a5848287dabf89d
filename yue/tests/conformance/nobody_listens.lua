-- A call to an address where nobody listens is `ConnectionRefusedError`; with `retry` it waits for the server.
local check = require 'check'
return {
  needs = { 'connection', 'listener' },
  server = function() return { f = function(x) return x end } end,
  client = function(endpoint)
    endpoint.stop()
    local c = endpoint.open()
    local e = check.raises('ConnectionRefusedError', endpoint.address:match '^%a+://', c.f, 1)
    check.equal(e.retryable, true)
    check.raises('ConnectionRefusedError', nil, function() c.async_f(1):get() end)
    check.equal(c.notify_f(1), true)
    local patient = endpoint.open { retry = true, timeout = 60 }
    -- A call that was never sent may be repeated.
    e = check.raises('TimeoutError', nil, patient.timed_f, 0.05, 1)
    check.equal(e.retryable, true)
    e = check.raises('TimeoutError', nil, function() patient.timed_async_f(0.05, 1):get() end)
    check.equal(e.retryable, true)
    local waiting = patient.async_f(7)
    endpoint.start()
    check.equal(waiting:get(), 7)
    check.equal(c.f(8), 8)
  end,
}
