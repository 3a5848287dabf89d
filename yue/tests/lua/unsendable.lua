-- Values in their own form on the wire: null, arrays with holes; and objects that cannot be sent, each with advice.
local check = require 'check'
local server, listener = check.pair {
  echo = function(...) return ... end,
  shape = function(t) return #t, t[1], t[2], t[3], t[4] end,
  a = { b = { f = function(x) return x end } },
}

-- The null of lua-cjson is a light userdata that is NULL, and so is ours.
check.equal(type(yue.null), 'userdata')
check.that(yue.null == yue.null and yue.null ~= nil)
check.equal(select('#', server.echo(yue.null, 1, yue.null)), 3)
check.equal({ server.echo(yue.null, 1) }, { nil, 1 })
check.equal({ server.shape { 1, yue.null, 3 } }, { 3, 1, nil, 3 })
check.equal(server.echo { a = yue.null, b = 2 }, { b = 2 })
check.raises('ArgumentError', 'light userdata', server.echo, debug.upvalueid(check.equal, 1))

-- Holes of an array become nil; a table that is not an array is refused.
check.equal({ server.shape(yue.array { 1, nil, 3 }) }, { 3, 1, nil, 3 })
check.equal({ server.shape(yue.array { [4] = 'x' }) }, { 4, nil, nil, nil, 'x' })
check.equal(server.echo(yue.array {}), {})
local t = { 1, 2 }
check.equal(yue.array(t), t)
for _, wrong in ipairs { { a = 1 }, { [0] = 1 }, { [1.5] = 1 }, { [-1] = 1 } } do
  check.raises('ArgumentError', 'whole numbers from 1', server.echo, yue.array(wrong))
end
check.raises('ArgumentError', 'are nil', server.echo, yue.array { [1e6] = 1 })
for _, far in ipairs { 2 ^ 31 - 1, 2 ^ 31, 2 ^ 32 + 1, 2 ^ 53 } do
  check.raises('ArgumentError', 'are nil', server.echo, yue.array { 1, [far] = 1 })
end
check.raises('ArgumentError', 'whole numbers', server.echo, yue.array { [math.huge] = 1 })
check.raises('ArgumentError', 'takes a table', yue.array, 1)

-- The path of a value far down is cut in its middle.
local nested = {}
for _ = 1, 1000 do nested = { nested } end
local _, deep = pcall(server.echo, nested)
check.equal(tostring(deep):match 'cannot.*', 'cannot send args[1]' .. ('[1]'):rep(8) .. '...' .. ('[1]'):rep(8)
  .. ': tables are nested deeper than 128 levels')

-- A colon passes the procedures.
for _, call in ipairs {
  function() return server:echo(1) end,
  function() return server.a.b:f(1) end,
  function() return server:async_echo(1):get() end,
  function() return server.echo { deep = server } end,
} do
  check.raises('ArgumentError', 'with a dot', call)
end
-- Other objects.
local future = server.async_echo(1)
for _, object in ipairs {
  yue.conn(server), listener, future, yue.spawn(function() end), yue.timer(0.001), yue.emitter(),
} do
  check.raises('ArgumentError', 'args[1]', server.echo, object)
  check.raises('ArgumentError', 'works only in its own program', server.echo, object)
end
future:get()
-- Tables of the program's own with a metatable are plain data, as before.
check.equal(server.echo(setmetatable({ x = 1 }, { __index = {} })), { x = 1 })
listener:close()
check.done()
