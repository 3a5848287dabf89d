-- Calls: names, results, nils, live lookup, and what cannot be called.
local check = require 'check'

local symbols = {
  add = function(a, b) return a + b end,
  several = function() return 1, 'two', { 3 } end,
  nothing = function() end,
  echo = function(...) return ... end,
  count = function(...) return select('#', ...) end,
  a = { b = { c = function(x) return 'deep ' .. x end } },
  _private = function() return 'secret' end,
  a_table = {},
  a_text = 'text',
  my_timed_thing = function() return 'just a name' end,
  async_ = function() return 'a prefix alone is a name' end,
  ['async_f'] = function() return 'really async_f' end,
  nested = { ['timed_f'] = function() return 'really timed_f' end, _hidden = function() end },
}
local c, listener = check.pair(symbols)

check.equal(c.add(1, 2), 3)
check.equal({ c.several() }, { 1, 'two', { 3 } })
check.equal(select('#', c.nothing()), 0)
check.equal(c.a.b.c('x'), 'deep x')
check.equal(c['a.b.c']('x'), 'deep x')

-- nils keep their places, between and at the end.
check.equal(c.count(nil, 1, nil), 3)
check.equal(c.count(nil), 1)
check.equal(c.count(), 0)
check.equal(select('#', c.echo(nil, 1, nil, nil)), 4)
local first, second, third = c.echo(nil, 2, nil)
check.that(first == nil and second == 2 and third == nil)

-- Prefixes count at the start of the last name only.
check.equal(c.my_timed_thing(), 'just a name')
check.equal(c.async_(), 'a prefix alone is a name')
check.equal(c['=async_f'](), 'really async_f')
check.equal(c.nested['=timed_f'](), 'really timed_f')
check.equal(c.a.b.async_c('y'):get(), 'deep y')
check.equal(c.a.b.timed_c(5, 'y'), 'deep y')
check.equal(c.timed_async_add(5, 1, 2):get(), 3)
check.equal(c.async_timed_add(5, 1, 2):get(), 3)
check.equal(c['=async_f'], c['=async_f'], 'a name is made once')

-- Every name is callable; what is missing, private, or no function is told so.
local wrong_names = {
  'missing', '_private', '_x', 'a', 'a_table', 'a_text', 'a.b', 'a..b', 'add.x', '', '.', 'nested._hidden',
}
for _, name in ipairs(wrong_names) do
  check.raises('NoMethodError', nil, c[name], 1)
end
check.raises('NoMethodError', 'missing', function() c.some.thing.missing() end)
check.raises('NoMethodError', '_private', function() c._private() end)
check.raises('NoMethodError', nil, function() c._a._b() end)
check.raises('NoMethodError', nil, function() c['string.rep']('x', 3) end)
check.raises('NoMethodError', nil, function() c.print('x') end)
check.raises('NoMethodError', nil, function() c[('x'):rep(5000)]() end)

-- The lookup is live.
symbols.add = function(a, b) return a - b end
check.equal(c.add(1, 2), -1)
symbols.late = function() return 'here' end
check.equal(c.late(), 'here')
symbols.late = nil
check.raises('NoMethodError', 'late', function() c.late() end)
symbols.a.b = { c = function() return 'another table' end }
check.equal(c.a.b.c(), 'another table')
function listener.namespace.through_the_view() return 'the view' end
check.equal(c.through_the_view(), 'the view')
listener:import { imported = function() return 'imported' end, add = function() return 'over it' end }
check.equal(c.imported(), 'imported')
check.equal(c.add(), 'over it')
listener.namespace.add = nil
check.raises('NoMethodError', 'add', function() c.add() end)
check.equal(listener.namespace.imported(), 'imported')

-- Calls of many fibers share the connection.
symbols.slow = function(x) yue.sleep(0.001) return x end
local fibers = {}
for i = 1, 500 do fibers[i] = yue.spawn(function() return c.slow(i) end) end
for i = 1, 500 do check.that(fibers[i]:get() == i) end
check.equal(yue.conn(c):stats().links, 1)

-- notify_ expects nothing, not even a mistake. It says whether it was taken.
local noted = {}
symbols.note = function(x) noted[#noted + 1] = x end
check.equal({ c.notify_note('a') }, { true })
check.equal({ c.notify_missing() }, { true })
check.equal({ c.timed_notify_note(5, 'b') }, { true })
check.equal({ c.async_notify_note('c'):sync() }, { true, true })
check.equal({ c.timed_async_notify_note(5, 'd'):sync() }, { true, true })
check.eventually(function() return #noted == 4 end)
check.equal(noted, { 'a', 'b', 'c', 'd' }, 'in the order in which they were sent')
check.raises('ArgumentError', 'seconds', function() c.timed_notify_note('b') end)
check.raises('ArgumentError', 'cannot', function() c.notify_note(coroutine.create(print)) end)

-- A made-up name is not kept forever.
for i = 1, 6000 do local _ = c['made_up_' .. i] end
local kept = 0
for name in pairs(c) do kept = kept + (type(name) == 'string' and 1 or 0) end
check.that(kept <= 4096, 'at most 4096 names are kept: ' .. kept)
check.raises('NoMethodError', 'made_up_6000', function() c.made_up_6000() end)

-- The procedures themselves.
check.raises('ArgumentError', 'name a procedure', function() c() end)
check.raises('ArgumentError', 'cannot be assigned', function() c.x = 1 end)
check.raises('ArgumentError', 'cannot be assigned', function() c.x.y = 1 end)
check.raises('ArgumentError', 'seconds', function() c.timed_echo() end)
check.raises('ArgumentError', 'seconds', function() c.timed_echo('x') end)
check.raises('ArgumentError', 'seconds', function() c.timed_echo(-1) end)
check.contains(tostring(c), 'remote procedures of connection to tcp://127.0.0.1')
check.contains(tostring(c.a.b), 'a.b')
check.equal(yue.conn(c).procs, c)

listener:close()
check.done()
