-- With `when_full = 'drop'` notifications are dropped and counted, in one `full` event; the rest keeps its order.
local check = require 'check'
return {
  needs = { 'when_full', 'connection', 'large', 'order' },
  server = function()
    return {
      flood = function(count)
        local peer, text, taken, full = yue.peer(), ('x'):rep(100000), 0, 0
        peer:bind('full', function() full = full + 1 end)
        for i = 1, count do
          if peer.procs.notify_tick(i, text) then taken = taken + 1 end
        end
        -- The event is emitted in a fiber of its own.
        while full == 0 do yue.yield() end
        return taken, peer:stats().notifications_dropped, full
      end,
      f = function() return 'f' end,
    }, { when_full = 'drop' }
  end,
  client = function(endpoint)
    local ticks, last = 0, 0
    local c = endpoint.open({ timeout = 60 }, {
      tick = function(i)
        check.that(i > last, 'out of order')
        ticks, last = ticks + 1, i
      end,
    })
    local taken, dropped, full = c.flood(200)
    check.that(taken >= 80 and taken < 200, 'taken: ' .. taken)
    check.equal({ taken + dropped, full }, { 200, 1 })
    check.eventually(function() return ticks == taken end)
    check.equal(c.f(), 'f')
    check.equal(yue.conn(c):stats().links, 1)
  end,
}
