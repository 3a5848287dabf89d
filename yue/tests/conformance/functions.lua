-- A function that is passed or returned runs where it was made, both ways; back at its owner it is itself.
local check = require 'check'
return {
  needs = { 'references' },
  logs = { 'the handler of call failed', 'a function that was passed as a value failed' },
  server = function()
    local kept
    return {
      call = function(f, ...) return f(...) end,
      make = function(x) return function(y) return x .. y end end,
      same = function(f, g) return f == g, f end,
      in_tables = function(t) return t.list[1](1) + t.list[2](2) end,
      keep = function(f) kept = f end,
      use = function(...) return kept(...) end,
      counter = function()
        local n = 0
        return { up = function() n = n + 1 return n end, get = function() return n end }
      end,
    }
  end,
  client = function(endpoint)
    local c = endpoint.open()
    check.equal(c.call(function(a, b) return a * b end, 6, 7), 42)
    check.equal(select('#', c.call(function(...) return ... end, nil, 1, nil)), 3)
    check.equal(c.make 'a' 'b', 'ab')
    check.equal(c.in_tables { list = { function(x) return x end, function(x) return x * 10 end } }, 21)
    local function mine() return 'mine' end
    local equal, again = c.same(mine, mine)
    check.equal(again, mine)
    local join = c.make 'a'
    check.equal({ (c.same(join, join)), select(2, c.same(join, join)) 'd' }, { true, 'ad' })
    local counter = c.counter()
    check.equal({ counter.up(), counter.up(), counter.get() }, { 1, 2, 2 })
    c.keep(function(x) yue.sleep(0.001) return c.make 'deep '(x) end)
    check.equal(c.use 'call', 'deep call')
    local e = check.raises('RuntimeError', 'from home', c.call, function() error 'from home' end)
    check.contains(e.msg, 'functions.lua')
    -- Through levels of both sides.
    local function level(n) return n == 0 and 0 or 1 + c.call(level, n - 1) end
    check.equal(c.call(level, 20), 20)
    local d = endpoint.open()
    check.raises('ArgumentError', nil, d.call, join, 'e')
    check.equal(d.call(function(...) return join(...) end, 'e'), 'ae')
  end,
}
