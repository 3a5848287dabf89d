--! stderr: the handler of fail failed, called by tcp://127.0.0.1:
-- Calls block wherever Lua runs: protected calls, metamethods, iterators, sort, gsub, coroutines, required chunks.
local check = require 'check'
local c, listener = check.pair { echo = function(...) yue.sleep(0) return ... end, fail = function() error('no') end }
local echo = c.echo

check.equal({ pcall(echo, 1) }, { true, 1 })
local ok, e = xpcall(c.fail, function(failure) return echo(failure.type) end)
check.equal({ ok, e }, { false, 'RuntimeError' })

local meta = setmetatable({}, {
  __index = function(_, key) return echo(key) end,
  __newindex = function(t, key, value) rawset(t, key, echo(value)) end,
  __call = function(_, x) return echo(x) end,
  __add = function(_, x) return echo(x) end,
  __concat = function(_, x) return echo(x) end,
  __lt = function() return echo(true) end,
  __le = function() return echo(true) end,
  __eq = function() return echo(true) end,
  __unm = function() return echo('unm') end,
  __tostring = function() return echo('text') end,
})
check.equal({ meta.key, meta(1), meta + 2, meta .. 'x', -meta, tostring(meta) }, { 'key', 1, 2, 'x', 'unm', 'text' })
meta.set = 5
check.equal(rawget(meta, 'set'), 5)
check.that(meta < setmetatable({}, getmetatable(meta)))
check.that(meta <= setmetatable({}, getmetatable(meta)))

local function each(n)
  return function(_, i) i = echo(i + 1) if i <= n then return i end end, nil, 0
end
local sum = 0
for i in each(10) do sum = sum + i end
check.equal(sum, 55)

local list = { 5, 3, 8, 1, 9, 2, 7 }
table.sort(list, function(a, b) return echo(a) < b end)
check.equal(list, { 1, 2, 3, 5, 7, 8, 9 })
check.equal((('abc'):gsub('.', function(x) return echo(x:upper()) end)), 'ABC')
check.equal(loadstring('return (...)(7)')(echo), 7)
package.preload.blocking = function() return { value = echo('required') } end
check.equal(require('blocking').value, 'required')

-- Coroutines: calls block in them, yields pass through them, and they may be resumed from another fiber.
local co = coroutine.wrap(function()
  for i = 1, 3 do coroutine.yield(echo(i)) end
  return echo('end')
end)
check.equal({ co(), co(), co(), co() }, { 1, 2, 3, 'end' })
co = coroutine.create(function() coroutine.yield(echo(1)) return echo(2) end)
check.equal({ coroutine.resume(co) }, { true, 1 })
check.equal({ yue.spawn(coroutine.resume, co):get() }, { true, 2 })
co = coroutine.wrap(function() c.fail() end)
check.raises('RuntimeError', 'no', co)

-- A yield does not pass what runs in C: these say so, and nothing breaks.
for _, through in ipairs {
  function() yue.try { coroutine.yield } end,
  function() yue.timeout(60, coroutine.yield) end,
  function() yue.shield(coroutine.yield) end,
  function() yue.client(coroutine.yield) error('it returned', 0) end,
} do
  co = coroutine.create(through)
  check.equal((coroutine.resume(co)), false)
end

-- With the compiler hot, and collections in between
local total = 0
for i = 1, 5000 do
  total = total + echo(i)
  if i % 500 == 0 then collectgarbage() end
end
check.equal(total, 5000 * 5001 / 2)

-- Where a switch would corrupt the VM it is refused, with a reason.
local said
debug.sethook(function()
  debug.sethook()
  local fine, failure = pcall(yue.sleep, 0)
  said = not fine and tostring(failure)
end, 'l')
local _ = 1
debug.sethook()
check.that(said, 'a hook cannot wait')
check.contains(said, 'hook')
local ffi = require 'ffi'
ffi.cdef 'void qsort(void *base, size_t count, size_t size, int (*compare)(const int *, const int *));'
local numbers, failure = ffi.new('int[3]', 3, 2, 1), nil
local callback = ffi.cast('int (*)(const int *, const int *)', function(a, b)
  local fine, why = pcall(yue.sleep, 0)
  if not fine then failure = tostring(why) end
  return a[0] - b[0]
end)
ffi.C.qsort(numbers, 3, 4, callback)
callback:free()
check.contains(failure, 'FFI')
check.equal(echo('and on'), 'and on')
listener:close()
check.done()
