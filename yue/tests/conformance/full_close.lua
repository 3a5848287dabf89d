-- A client that does not keep up with notifications is closed as `too slow`, and starts anew.
local check = require 'check'
return {
  needs = { 'when_full', 'connection', 'large' },
  server = function()
    return {
      flood = function(bytes)
        local peer, text, taken = yue.peer(), ('x'):rep(100000), 0
        -- In one turn of the loop nothing can be written.
        for _ = 1, bytes / 100000 do
          if not peer.procs.notify_tick(text) then return taken end
          taken = taken + 1
        end
        return taken
      end,
      f = function() return 'f' end,
    }
  end,
  client = function(endpoint)
    local reasons, ticks = {}, 0
    local c = endpoint.open({ timeout = 60 }, {
      tick = function() ticks = ticks + 1 end,
      __close = function(_, reason) reasons[#reasons + 1] = reason return true end,
    })
    check.equal(c.flood(7e6), 70)
    check.eventually(function() return ticks == 70 end)
    pcall(c.flood, 20e6)
    check.eventually(function() return #reasons >= 1 end)
    check.equal(c.f(), 'f')
    check.equal(yue.conn(c):stats().links, 2)
  end,
}
