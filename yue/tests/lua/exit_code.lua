--! exit: 3
--! stdout: not lost
-- os.exit ends the process with its code, from any fiber; what was printed is not lost.
local listener = yue.listen('tcp://127.0.0.1:0', {})
io.write('not lost')
yue.spawn(function() os.exit(3, true) end):sync()
