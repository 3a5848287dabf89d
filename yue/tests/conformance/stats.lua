-- What one side counts as sent, the other counts as received.
local check = require 'check'
return {
  needs = { 'connection', 'order' },
  server = function()
    return {
      echo = function(x) return x end,
      note = function() end,
      back = function(n) for i = 1, n do yue.peer().procs.f(i) end end,
      stats = function() return yue.peer():stats() end,
    }
  end,
  client = function(endpoint)
    local c = endpoint.open(nil, { f = function() end })
    local conn = yue.conn(c)
    for i = 1, 10 do c.echo(i) end
    for _ = 1, 5 do c.notify_note() end
    c.back(7)
    local theirs = c.stats()
    local ours = conn:stats()
    check.equal({ ours.calls, ours.notifications, ours.requests, ours.links }, { 12, 5, 7, 1 })
    check.equal({ theirs.calls, theirs.requests, theirs.requests_in_flight }, { 7, 17, 1 })
    check.equal({ ours.calls_in_flight, ours.queued_bytes, ours.timeouts }, { 0, 0, 0 })
    check.equal(theirs.bytes_in, ours.bytes_out)
    check.that(theirs.bytes_out < ours.bytes_in)
    check.equal(ours.methods.f.calls, 7)
  end,
}
