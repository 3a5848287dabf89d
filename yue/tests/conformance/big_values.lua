-- Values of megabytes arrive whole, many at once and in both directions; small calls pass beside them.
local check = require 'check'
return {
  needs = { 'large' },
  server = function()
    return {
      echo = function(x) return x end,
      make = function(bytes) return ('y'):rep(bytes) end,
      size = function(x) return #x end,
    }
  end,
  client = function(endpoint)
    local c = endpoint.open { timeout = 60 }
    local big = ('x'):rep(2 ^ 20)
    check.that(c.echo(big) == big)
    check.equal(c.size(('x'):rep(4 * 2 ^ 20 - 100)), 4 * 2 ^ 20 - 100)
    check.equal(#c.make(4 * 2 ^ 20 - 100), 4 * 2 ^ 20 - 100)
    for _, size in ipairs { 16383, 16384, 16385, 65535, 65536, 65537 } do
      check.equal(#c.echo(('z'):rep(size)), size)
    end
    local fibers = {}
    for i = 1, 8 do fibers[i] = yue.spawn(function() return c.echo(big) == big end) end
    for i = 1, 100 do fibers[#fibers + 1] = yue.spawn(function() return c.size(('s'):rep(i)) == i end) end
    for i, fiber in ipairs(fibers) do check.that(fiber:get(), 'call ' .. i) end
  end,
}
