-- A yue peer that has been silent for a part of `keepalive` is pinged, and stays connected if it answers.
local check = require 'check'
return {
  needs = { 'keepalive' },
  server = function() return { f = function(x) return x end } end,
  client = function(endpoint)
    local c = endpoint.open { keepalive = 0.3 }
    check.equal(c.f(1), 1)
    check.eventually(function() return yue.conn(c):stats().pings >= 2 end)
    check.equal(c.f(2), 2)
    check.equal(yue.conn(c):stats().links, 1)
  end,
}
