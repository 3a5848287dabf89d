-- A server with low limits. It prints its address, and ends with its standard input.
local yue = require 'yue'
yue.config.timeout = 60 -- machines are busy

local listener = yue.listen('tcp://127.0.0.1:0', {
  ws = true, in_flight_max = 5, message_max = 100000, rate = { calls = 50, burst = 100 },
}, {
  wait = function() return yue.peer().procs.gate() end,
  size = function(x) return #x end,
  make = function(n) return ('x'):rep(n) end,
})
print(listener:addr())
io.stdout:flush()
io.read '*a'
os.exit(0)
