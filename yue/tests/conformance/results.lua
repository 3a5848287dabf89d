-- No result, one and several arrive as such; nils keep their positions, trailing ones included.
local check = require 'check'
return {
  needs = { 'hello' },
  server = function()
    return {
      nothing = function() end,
      echo = function(...) return ... end,
      count = function(...) return select('#', ...) end,
      many = function(n)
        local all = {}
        for i = 1, n do all[i] = i end
        return unpack(all, 1, n)
      end,
    }
  end,
  client = function(endpoint)
    local c = endpoint.open()
    check.equal(select('#', c.nothing()), 0)
    for _, n in ipairs { 0, 1, 2, 15, 16, 40, 200 } do
      local results = { c.many(n) }
      check.equal(#results, n)
      check.equal(results[n], n > 0 and n or nil)
    end
    check.equal({ c.count(), c.count(nil), (c.count(nil, 1, nil)) }, { 0, 1, 3 })
    check.equal(select('#', c.echo(nil)), 1)
    check.equal(select('#', c.echo(nil, 1, nil, nil)), 4)
    local first, second, third = c.echo(nil, 2, nil)
    check.that(first == nil and second == 2 and third == nil)
    check.equal(select('#', c.async_echo(1, nil, nil):get()), 3)
  end,
}
