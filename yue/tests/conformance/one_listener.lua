-- An address has one listener; a second one is refused, and may listen there when the first has closed.
local check = require 'check'
return {
  needs = { 'listener' },
  server = function() return { f = function() return 'f' end } end,
  client = function(endpoint)
    local c = endpoint.open()
    check.equal(c.f(), 'f')
    local first = endpoint.listener or endpoint.thread
    check.raises('Error', nil, endpoint.start)
    check.equal(endpoint.listener or endpoint.thread, first)
    check.equal(c.f(), 'f')
    endpoint.stop()
    endpoint.start()
    check.equal(endpoint.open().f(), 'f')
  end,
}
