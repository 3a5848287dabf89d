-- A program ends when nothing can call it any more; a connection that was opened and is idle does not hold it, and what
-- runs does: this ends when the last fiber has ended.
local check = require 'check'
local listener = yue.listen('tcp://127.0.0.1:0', { f = function() return 1 end })
local c = yue.open(listener:addr())
check.equal(c.f(), 1)
local timer = yue.timer(0, 0.001)
yue.spawn(function()
  yue.sleep(0.01)
  timer:close()
  listener:close()
  yue.sleep(0.01)
  yue.spawn(function()
    yue.sleep(0.01)
    check.done()
  end)
end)
