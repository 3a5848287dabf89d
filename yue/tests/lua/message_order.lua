-- Notifications that a handler sends start before its caller continues with the answer, over every transport. A loop
-- that is behind (on a busy machine) serves the rest of them later; so not every round has to be in order.
local yue = require 'yue'
local check = require 'check'

local function try(address)
  local listener = yue.listen(address, {
    go = function(n)
      local peer = yue.peer().procs
      for i = 1, n do peer.notify_seen(i) end
      return n
    end,
  })
  local seen = 0
  local client = yue.socket(listener:addr(), { no_cache = true }, { seen = function(i) seen = i end })
  local in_order = 0
  for round = 1, 100 do
    seen = 0
    if client.procs.go(round % 5 + 1) == seen then in_order = in_order + 1 end
  end
  check.that(in_order > 10, ('%d rounds of 100 over %s'):format(in_order, address))
  client:close()
  listener:close()
end

try 'tcp://127.0.0.1:0'
try 'ws://127.0.0.1:0'
try('unix://' .. os.tmpname() .. '.sock')
check.done()
