-- The namespace is live: what a handler changes, the next call reaches.
local check = require 'check'
return {
  server = function(server)
    local symbols
    symbols = {
      f = function() return 'first' end,
      a = { g = function() return 'old' end },
      replace = function() symbols.f = function() return 'second' end end,
      replace_table = function() symbols.a = { g = function() return 'new' end } end,
      remove = function() symbols.f = nil end,
      assign = function() server.listener.namespace.late = function() return 'assigned' end end,
      import = function() server.listener:import { late = function() return 'imported' end } end,
    }
    return symbols
  end,
  client = function(endpoint)
    local c = endpoint.open()
    local f, g = c.f, c.a.g
    check.equal({ f(), g() }, { 'first', 'old' })
    c.replace()
    c.replace_table()
    check.equal({ f(), g() }, { 'second', 'new' })
    c.remove()
    check.raises('NoMethodError', nil, f)
    check.raises('NoMethodError', nil, c.late)
    c.assign()
    check.equal(c.late(), 'assigned')
    c.import()
    check.equal(c.late(), 'imported')
  end,
}
