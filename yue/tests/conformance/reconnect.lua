-- A connection that the server closes is made again; `reconnect = false` and `__close` prevent it.
local check = require 'check'
return {
  needs = { 'connection' },
  server = function()
    return {
      hang_up = function() yue.peer():close() end,
      f = function(x) return x end,
    }
  end,
  client = function(endpoint)
    local reasons = 0
    local c = endpoint.open({ timeout = 60 }, { __close = function() reasons = reasons + 1 return true end })
    for round = 1, 3 do
      check.equal(c.f(round), round)
      c.notify_hang_up()
      check.eventually(function() return reasons == round end)
    end
    check.equal(c.f(4), 4)
    check.equal(yue.conn(c):stats().links, 4)
    for _, last in ipairs {
      { { reconnect = false }, nil },
      { { timeout = 60 }, { __close = function() return false end } },
    } do
      local closed
      local d = endpoint.open(last[1], last[2] or {})
      yue.conn(d):bind('close', function() closed = true end)
      check.equal(d.f(1), 1)
      d.notify_hang_up()
      check.eventually(function() return closed end)
      yue.sleep(0.1)
      check.that(not yue.conn(d):connected(), 'it reconnects by itself')
      -- The next call connects.
      check.equal(d.f(2), 2)
      check.equal(yue.conn(d):stats().links, 2)
    end
  end,
}
