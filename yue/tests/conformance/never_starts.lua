-- A request whose caller gave up before it starts never starts.
local check = require 'check'
return {
  needs = { 'connection' },
  server = function()
    local started, granted = {}, false
    return {
      __accept = function(conn)
        conn.procs.ready()
        return true
      end,
      work = function(name) started[#started + 1] = name end,
      started = function() return started end,
    }
  end,
  client = function(endpoint)
    local go = yue.emitter()
    local opened
    local c = endpoint.open(nil, { ready = function() opened = true go:wait 'go' end })
    local kept = c.timed_async_work(30, 'kept')
    local cancelled = c.timed_async_work(30, 'cancelled')
    local notified = c.notify_work 'notified'
    check.that(notified)
    local late = c.timed_async_work(0.02, 'late')
    check.raises('TimeoutError', nil, late.get, late)
    cancelled:cancel()
    check.eventually(function() return opened end)
    go:emit 'go'
    kept:get()
    check.equal(c.started(), { 'kept', 'notified' })
  end,
}
