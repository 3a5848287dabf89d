-- A connection above `connections_max` is refused with that reason, until another one leaves.
local check = require 'check'
return {
  needs = { 'connection', 'listener' },
  server = function() return { f = function() return 'f' end }, { connections_max = 3 } end,
  client = function(endpoint)
    local inside = {}
    for i = 1, 3 do
      inside[i] = endpoint.open()
      check.equal(inside[i].f(), 'f')
    end
    local late = endpoint.open()
    local e = check.raises('NotGrantedError', '3 connections, its limit', late.f)
    check.equal(e.retryable, true)
    check.equal(inside[1].f(), 'f')
    yue.conn(inside[2]):close()
    check.eventually(function() return pcall(late.f) end, 'there is no room again')
  end,
}
