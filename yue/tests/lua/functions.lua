--! stderr: the handler of fail failed, called by tcp://127.0.0.1:
-- Functions as values: called by the peer they run where they were made; they are released, and die with the
-- link.
local check = require 'check'
local kept = {}
local symbols = {
  call = function(f, ...) return f(...) end,
  keep = function(name, f) kept[name] = f end,
  drop = function(name) kept[name] = nil end,
  use = function(name, ...) return kept[name](...) end,
  make = function(x) return function(y) return x .. y end end,
  same = function(f, g) return f == g, f end,
  in_tables = function(t) return t.list[1](1) + t.list[2](2) end,
  type_of = function(f) return type(f) end,
  fail = function(f) return f() end,
}
local c, listener = check.pair(symbols)

check.equal(c.call(function(a, b) return a * b end, 6, 7), 42)
check.equal({ c.call(function(...) return ... end, 1, nil, 3) }, { 1, nil, 3 })
local join = c.make('a')
check.equal(join('b'), 'ab')
check.contains(tostring(join), 'remote function')
check.equal(c.in_tables { list = { function(x) return x end, function(x) return x * 10 end } }, 21)
local nested = c.call(function(f) return f end, join)
check.equal(nested('c'), 'ac')

-- What comes home is the function itself.
local function mine() return 'mine' end
local equal, again = c.same(mine, mine)
check.equal(again, mine)
check.equal(select(2, c.same(join, join))('d'), 'ad')

-- It blocks, calls on, raises.
check.equal(c.call(function() yue.sleep(0.001) return c.make('deep ')('call') end), 'deep call')
local e = check.raises('RuntimeError', 'from home', c.fail, function() error('from home') end)
check.contains(e.msg, 'functions.lua')
check.raises('CallError', nil, c.call, print and coroutine.create(print))

-- Released when the peer does not hold it any more.
local count = 0
for i = 1, 100 do c.keep(i, function() count = count + 1 end) end
for i = 1, 100 do c.use(i) end
check.equal(count, 100)
check.that(yue.conn(c):stats().functions_held >= 100)
for i = 1, 100 do c.drop(i) end
check.eventually(function()
  collectgarbage()
  return yue.conn(c):stats().functions_held == 0
end, 'they are released')
-- The same the other way round.
for i = 1, 100 do check.that(c.make(i)('x') == i .. 'x') end
check.eventually(function()
  collectgarbage()
  local held = 0
  for _, conn in ipairs(listener:connections()) do held = held + conn:stats().functions_held end
  return held <= 2
end, 'ours are released too')

-- It belongs to one connection: another peer cannot call it through another connection.
local d = yue.open(listener:addr(), { no_cache = true }, nil)
check.raises('ArgumentError', nil, d.call, join, 'e')
check.equal(d.call(function(...) return join(...) end, 'e'), 'ae')

-- It holds the connection that it came through.
local far = (function() return yue.open(listener:addr(), { no_cache = true }, nil).make('held ') end)()
for _ = 1, 5 do collectgarbage() yue.sleep(0.002) end
check.equal(far('still'), 'held still')

-- It dies with the link.
symbols.hang_up = function() yue.peer():close() end
pcall(c.hang_up)
check.equal(c.call(function() return 1 end), 1)
check.raises('Error', nil, join, 'x')
yue.conn(d):close()
check.raises('Error', nil, far and d.call, print)

-- There may be only so many.
local few = yue.listen('tcp://127.0.0.1:0', symbols)
local limited = yue.open(few:addr(), { references_max = 10 }, nil)
for i = 1, 10 do limited.keep('few' .. i, function() end) end
check.raises('Error', nil, limited.keep, 'one more', function() end)
check.equal(limited.call ~= nil and limited.type_of(5), 'number')
few:close()
listener:close()
check.done()
