-- A thousand reloads: old versions are freed when their last fiber has ended, even while an old fiber lives on.
local check = require 'check'
-- Compiled code refers to functions that it was made for: some versions live until it is dropped.
jit.off()
local folder = yue.fs.temp()
package.path = folder .. '/?.lua;' .. package.path
local function write(n)
  local text = 'local data = ("x"):rep(100000) .. %d return { n = %d, get = function() return data end }'
  yue.fs.write(folder .. '/big.lua', text:format(n, n))
end
local alive = setmetatable({}, { __mode = 'k' })
local function count()
  for _ = 1, 3 do collectgarbage() end
  local n = 0
  for _ in pairs(alive) do n = n + 1 end
  return n
end

write(0)
alive[require 'big'] = true
yue.fs.write(folder .. '/symbols.lua', "local big = require 'big' function n() return big.n end")
local listener = yue.listen('tcp://127.0.0.1:0', folder .. '/symbols.lua')
local server = yue.open(listener:addr(), { no_cache = true }, nil)
local function round(from, to)
  for n = from, to do
    write(n)
    yue.reload()
    alive[require 'big'] = true
    if n % 50 == 0 then check.equal(server.n(), n) end
  end
end
round(1, 200)
check.equal(count(), 1, 'only the present version lives')
local before = collectgarbage 'count'
round(201, 600)
check.equal(count(), 1)
check.that(collectgarbage 'count' < before + 300, 'the memory grows')

-- A fiber of an old version keeps that one, and none between.
local release = yue.event()
local old = yue.spawn(function()
  local first = require 'big'.n
  release:wait()
  return first, require 'big'.n
end)
yue.yield()
round(601, 1000)
check.equal(count(), 2, 'the version of the fiber, and the present one')
check.that(collectgarbage 'count' < before + 500)
release:set()
check.equal({ old:get() }, { 600, 600 })
old = nil
check.eventually(function() return count() == 1 end)
listener:close()
check.done()
