-- A function is released when the peer has collected it, on both sides.
local check = require 'check'
return {
  needs = { 'references' },
  server = function()
    local kept = {}
    return {
      keep = function(name, f) kept[name] = f end,
      use = function(name) return kept[name]() end,
      drop = function(name) kept[name] = nil collectgarbage() end,
      make = function() return function() return 'made' end end,
      held = function() return yue.peer():stats().functions_held end,
    }
  end,
  client = function(endpoint)
    local c = endpoint.open()
    local count = 0
    for i = 1, 100 do c.keep(i, function() count = count + 1 end) end
    for i = 1, 100 do c.use(i) end
    check.equal(count, 100)
    check.that(yue.conn(c):stats().functions_held >= 100)
    for i = 1, 100 do c.drop(i) end
    check.eventually(function()
      c.drop(1)
      return yue.conn(c):stats().functions_held == 0
    end, 'the client keeps functions that the server has dropped')
    for _ = 1, 100 do check.equal(c.make()(), 'made') end
    check.eventually(function()
      collectgarbage()
      return c.held() <= 2
    end, 'the server keeps functions that the client has dropped')
  end,
}
