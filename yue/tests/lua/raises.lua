--! exit: 1
--! stderr: yue: RuntimeError
--! stderr: raises.lua:13: the script fails
--! stderr: stack traceback
-- A script that raises ends the program at once, with everything that is open.
local listener = yue.listen('tcp://127.0.0.1:0', {
  slow = function() yue.sleep(3600) end,
})
local c = yue.open(listener:addr())
yue.timer(0, 3600)
yue.spawn(function() c.slow() end)
yue.sleep(0.02)
error('the script fails')
