-- Functions end with their link: calls of one fail, and one of an earlier link finds nothing on the next.
local check = require 'check'
return {
  needs = { 'references', 'listener' },
  server = function()
    return {
      make = function() return function() return 'made' end end,
      hang_up = function() yue.peer():close() end,
      held = function() return yue.peer():stats().functions_held end,
      f = function() return 'f' end,
    }
  end,
  client = function(endpoint)
    local c = endpoint.open { timeout = 60 }
    local made = c.make()
    check.equal(made(), 'made')
    pcall(c.hang_up)
    check.equal(c.f(), 'f')
    check.eventually(function() return yue.conn(c):connected() end)
    local e = check.raises('Error', nil, made)
    check.that(type(e.retryable) == 'boolean')
    check.equal(c.held(), 0)
    check.equal(c.make()(), 'made')
    check.raises('Error', nil, made)
  end,
}
