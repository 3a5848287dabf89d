-- A call gets its answer; names may be nested, and prefixes combine.
local check = require 'check'
return {
  server = function()
    return {
      add = function(a, b) return a + b end,
      a = { b = { c = function(x) return 'deep ' .. x end } },
      async_f = function() return 'really async_f' end,
      my_timed_thing = function() return 'just a name' end,
    }
  end,
  client = function(endpoint)
    local c = endpoint.open()
    check.equal(c.add(1, 2), 3)
    check.equal(c.a.b.c 'x', 'deep x')
    check.equal(c['a.b.c'] 'x', 'deep x')
    check.equal(c.async_add(3, 4):get(), 7)
    check.equal(c.timed_add(30, 3, 4), 7)
    check.equal(c.timed_async_add(30, 3, 4):get(), 7)
    check.equal(c.async_timed_add(30, 3, 4):get(), 7)
    check.equal(c.a.b.timed_c(30, 'y'), 'deep y')
    check.equal(c['=async_f'](), 'really async_f')
    check.equal(c.my_timed_thing(), 'just a name')
  end,
}
