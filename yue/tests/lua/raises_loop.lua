--! options: -c 3
--! exit: 1
--! stderr: yue: RuntimeError
--! stderr: raises_loop.lua:12: the second loop fails
--! stderr: stack traceback
-- The first loop whose script raises ends the whole program, whichever it is, with all that the others have open.
local yue = require 'yue'
local index = yue.thread.current.index
local listener = yue.listen('tcp://127.0.0.1:0', { slow = function() yue.sleep(3600) end })
yue.timer(0, 3600)
yue.spawn(yue.open(listener:addr(), { timeout = 3600 }, nil).slow)
if index == 2 then yue.sleep(0.05) error 'the second loop fails' end
yue.sleep(3600)
