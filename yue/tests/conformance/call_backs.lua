-- A handler calls its caller back while the caller waits; 20 levels nest, from many fibers at once.
local check = require 'check'
return {
  server = function()
    return {
      ask = function(x) return 'asked ' .. yue.peer().procs.answer(x) end,
      down = function(n) return n == 0 and 0 or 1 + yue.peer().procs.up(n - 1) end,
    }
  end,
  client = function(endpoint)
    local c = endpoint.open(nil, {
      answer = function(x) return x .. '!' end,
      up = function(n) return n == 0 and 0 or 1 + yue.peer().procs.down(n - 1) end,
    })
    check.equal(c.ask 'x', 'asked x!')
    check.equal(c.down(20), 20)
    local fibers = {}
    for i = 1, 50 do fibers[i] = yue.spawn(function() return c.down(20) end) end
    for i = 1, 50 do check.equal(fibers[i]:get(), 20) end
  end,
}
