-- In `__accept` both sides may call; other calls wait. Its value reaches the client, functions in it too.
local check = require 'check'
return {
  needs = { 'connection', 'references' },
  server = function()
    local events = {}
    return {
      __accept = function(conn)
        events[#events + 1] = 'accepting'
        conn.user = conn.procs.who(function() return 'early' end)
        yue.sleep(0.01)
        events[#events + 1] = 'granting'
        return { user = conn.user, hello = function(x) return 'hello ' .. x end }
      end,
      f = function()
        events[#events + 1] = 'f'
        return yue.peer().user
      end,
      events = function() return events end,
    }
  end,
  client = function(endpoint)
    local granted, inside, early
    local c = endpoint.open(nil, {
      who = function(f)
        early = f()
        return 'sam'
      end,
      __accept = function(conn, value)
        granted, inside = value, conn.procs.f()
        return true
      end,
    })
    local held = c.async_f()
    check.that(c.notify_f())
    check.equal(yue.conn(c):connected(), false)
    check.equal({ c.f(), held:get() }, { 'sam', 'sam' })
    check.equal({ early, inside, granted.user, granted.hello 'function' }, { 'early', 'sam', 'sam', 'hello function' })
    check.equal(c.events(), { 'accepting', 'granting', 'f', 'f', 'f', 'f' })
    check.that(yue.conn(c):connected())
  end,
}
