-- A call that times out is one error and one `__timeout`; the late answer is dropped, the connection stays.
local check = require 'check'
return {
  server = function()
    local over = yue.emitter()
    return {
      forever = function() over:wait 'over' end,
      release = function() over:emit 'over' end,
      nap = function(seconds) yue.sleep(seconds) return 'rested' end,
      echo = function(x) return x end,
    }
  end,
  client = function(endpoint)
    local timeouts = 0
    local c = endpoint.open(nil, { __timeout = function() timeouts = timeouts + 1 end })
    check.equal(c.echo(1), 1)
    local e = check.raises('TimeoutError', nil, c.timed_forever, 0.02)
    check.equal(e.retryable, false)
    check.raises('TimeoutError', nil, function() c.timed_async_forever(0.02):get() end)
    check.raises('TimeoutError', nil, yue.timeout, 0.02, c.forever)
    check.eventually(function() return timeouts >= 2 end)
    c.release()
    check.equal(c.timed_nap(30, 0.02), 'rested')
    check.equal(c.echo(2), 2)
    local stats = yue.conn(c):stats()
    check.equal({ stats.calls_in_flight, stats.links, stats.timeouts }, { 0, 1, timeouts })
    local short = endpoint.open { timeout = 0.02 }
    check.raises('TimeoutError', nil, short.forever)
    for _, wrong in ipairs { -1, 'x', 0 / 0 } do check.raises('ArgumentError', nil, c.timed_echo, wrong) end
    c.release()
  end,
}
