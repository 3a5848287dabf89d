-- Calls above `rate` are `ServerBusyError`; a connection that does not stop is closed, others are served.
local check = require 'check'
return {
  needs = { 'connection', 'listener' },
  server = function() return { f = function() return 'f' end }, { rate = { calls = 1, burst = 20 } } end,
  client = function(endpoint)
    local reason
    local c = endpoint.open({ reconnect = false }, { __close = function(_, why) reason = why end })
    for _ = 1, 20 do check.equal(c.f(), 'f') end
    local e = check.raises('ServerBusyError', nil, c.f)
    check.equal(e.retryable, true)
    local other = endpoint.open()
    check.equal(other.f(), 'f')
    check.eventually(function()
      for _ = 1, 50 do c.notify_f() end
      return reason
    end)
    check.contains(reason, 'too many calls')
    check.equal(other.f(), 'f')
  end,
}
