--! stderr: the handler of bad failed
-- A program may redefine any global, and empty the library's tables: nothing of the API breaks.
local check = require 'check'
local yue = require 'yue'
local real = {}
for name, value in pairs(_G) do real[name] = value end

local function api()
  yue.log.debug('a', { 1 })
  yue.pp({ 1, { a = 'b' } })
  local l = yue.listen('tcp://127.0.0.1:0', { f = function(...) return ... end, bad = function() real.error('x') end })
  local c = yue.open(l:addr())
  local a, b = c.f(1, { 2 })
  local ok = real.pcall(c.bad)
  local future = c.async_f(3)
  local timer = yue.timer(0)
  timer:wait('tick')
  local all = yue.all { future, yue.spawn(function() return 4 end) }
  local client = { yue.client(function(cl) return c.timed_f(1, 'in') end) }
  local t = yue.thread('other', function() yue.thread.current:import { g = function(x) return x end } end)
  local g = t.procs.g(5)
  t:close()
  local tried = yue.try { function() real.error('y') end, catch = function(e) return e:is_a('RuntimeError') end }
  local listed = #yue.fiber.list() >= 0
  l:close()
  local called = a == 1 and b[1] == 2 and not ok and all[1] == 3 and all[2] == 4
  return called and client[1] == true and g == 5 and tried and listed
end
check.that(api(), 'as it is')

for name in pairs(real) do
  if name ~= 'yue' and name ~= '_G' then _G[name] = false end
end
local fine, e = real.pcall(api)
for name, value in real.pairs(real) do _G[name] = value end
check.that(fine and e, tostring(e))

for _, library in ipairs { 'table', 'math', 'coroutine', 'bit' } do
  for field in pairs(real[library]) do real[library][field] = nil end
end
check.that(api(), 'with empty libraries')

-- `print` asks the program's tostring, as Lua's own does.
local asked
_G.tostring = function(value)
  asked = value
  return 'text'
end
print(42)
_G.tostring = real.tostring
check.equal(asked, 42)
check.done()
