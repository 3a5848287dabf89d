-- Calls itself over the network, and does not wait for long.
local yue = require 'yue'

local listener = yue.listen('tcp://127.0.0.1:0', { hello = function(name) return 'hello ' .. name end })
print(yue.open(listener:addr(), { timeout = 0.5 }, nil).hello('you'))
listener:close()
