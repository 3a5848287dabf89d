-- What was sent before a close still arrives: notifications of the client, and answers of the server.
local check = require 'check'
return {
  needs = { 'connection', 'order', 'listener' },
  server = function()
    local heard = 0
    return {
      note = function() heard = heard + 1 end,
      heard = function() return heard end,
      last = function(x)
        for i = 1, 100 do yue.peer().procs.notify_tick(i) end
        yue.peer():close 'enough'
        return x
      end,
    }
  end,
  client = function(endpoint)
    local observer = endpoint.open()
    local c = endpoint.open()
    check.equal(c.heard(), 0)
    for _ = 1, 500 do check.that(c.notify_note(('x'):rep(100))) end
    yue.conn(c):close()
    check.eventually(function() return observer.heard() == 500 end)
    local ticks = 0
    c = endpoint.open({ reconnect = false }, { tick = function() ticks = ticks + 1 end })
    pcall(c.last, 'x')
    check.eventually(function() return ticks == 100 end)
  end,
}
