-- A program that leaves everything behind ends without a word: connections, futures, fibers that are cancelled.
local check = require 'check'
local listener = yue.listen('tcp://127.0.0.1:0', {
  slow = function() yue.sleep(3600) end,
  f = function() return print end,
})
local c = yue.open(listener:addr(), { no_cache = true, timeout = 3600 }, {})
_G.kept = { c, c.f(), yue.spawn(function() c.slow() end), yue.spawn(yue.sleep, 3600), yue.timer(3600, 1) }
for _ = 1, 10 do _G.kept[#_G.kept + 1] = yue.open(listener:addr(), { no_cache = true }, nil) end
_G.kept[#_G.kept + 1] = yue.thread('left', function() yue.thread.current:import { f = function() end } end)
local proxy = newproxy(true)
getmetatable(proxy).__gc = function() yue.log.debug('at the end') end
_G.kept.proxy = proxy
yue.spawn(function()
  yue.sleep(0.01)
  check.that(true)
  check.done()
  yue.die { shutdown_after = 0.001 }
end)
