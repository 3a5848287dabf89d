-- The callbacks of a connection run once for each link, in order; an error in one closes only its connection.
local check = require 'check'
return {
  needs = { 'connection', 'listener' },
  logs = { '__open failed', '__close failed', '__accept failed' },
  server = function()
    local events = {}
    return {
      __open = function(conn)
        events[#events + 1] = 'open'
        if events.fail then error 'open' end
      end,
      __accept = function() events[#events + 1] = 'accept' return true end,
      __close = function() events[#events + 1] = 'close' if events.fail_close then error 'close' end end,
      events = function() return table.concat(events, ' ') end,
      fail = function(what, value) events[what] = value end,
      f = function() return 'f' end,
    }
  end,
  client = function(endpoint)
    local observer = endpoint.open()
    check.equal(observer.events(), 'open accept')
    local mine = {}
    local c = endpoint.open({ reconnect = false }, {
      __open = function() mine[#mine + 1] = 'open' end,
      __accept = function() mine[#mine + 1] = 'accept' return true end,
      __close = function() mine[#mine + 1] = 'close' end,
    })
    check.equal(c.f(), 'f')
    check.equal(mine, { 'open', 'accept' })
    yue.conn(c):close()
    check.eventually(function() return observer.events() == 'open accept open accept close' end)
    check.eventually(function() return #mine == 3 end)
    observer.fail('fail', true)
    local failing = endpoint.open { reconnect = false }
    check.raises('Error', nil, failing.f)
    observer.fail('fail', false)
    observer.fail('fail_close', true)
    c = endpoint.open()
    check.equal(c.f(), 'f')
    yue.conn(c):close()
    check.eventually(function() return select(2, observer.events():gsub('close', '')) >= 2 end)
    check.equal(observer.f(), 'f')
    check.equal(endpoint.open().f(), 'f')
  end,
}
