-- yue calls_after_silence.lua ADDRESS SECONDS: calls, says nothing for so long, and calls again: on the same connection
-- and on a new one.
local yue = require 'yue'
local c = yue.open(yue.args[1])
print(c.nap(0))
yue.sleep(tonumber(yue.args[2]))
print(c.nap(0))
print(yue.open(yue.args[1], { no_cache = true }, nil).nap(0))
