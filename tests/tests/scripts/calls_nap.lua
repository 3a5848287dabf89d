-- yue calls_nap.lua ADDRESS FILE: makes FILE, then a call that takes half a second and may take two.
local yue = require 'yue'
local c = yue.open(yue.args[1])
c.nap(0)
io.open(yue.args[2], 'w'):close()
print(c.timed_nap(2, 0.5))
