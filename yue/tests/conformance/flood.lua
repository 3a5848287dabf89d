-- Two peers that flood each other with large calls both make progress.
local check = require 'check'
return {
  needs = { 'large' },
  server = function()
    return {
      flood = function(count, text)
        local fibers = {}
        local procs = yue.peer().procs
        for i = 1, count do fibers[i] = yue.spawn(function() return procs.timed_echo(60, text) == text end) end
        for i = 1, count do if not fibers[i]:get() then return false end end
        return true
      end,
      echo = function(x) return x end,
    }
  end,
  client = function(endpoint)
    local c = endpoint.open({ timeout = 60 }, { echo = function(x) return x end })
    check.equal(c.echo(1), 1)
    local text = ('x'):rep(200000)
    local flood, fibers = c.async_flood(50, text), {}
    for i = 1, 50 do fibers[i] = yue.spawn(function() return c.echo(text) == text end) end
    for i = 1, 50 do check.that(fibers[i]:get()) end
    check.equal(flood:get(), true)
    check.equal(yue.conn(c):stats().links, 1)
  end,
}
