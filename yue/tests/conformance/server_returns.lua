-- A server that goes and comes back at its address finds its clients again, with the calls that wait.
local check = require 'check'
return {
  needs = { 'connection', 'listener' },
  server = function() return { f = function(x) return x end } end,
  client = function(endpoint)
    local clients = {}
    for i = 1, 10 do
      clients[i] = endpoint.open { timeout = 60 }
      check.equal(clients[i].f(i), i)
    end
    for round = 1, 2 do
      endpoint.stop()
      check.eventually(function()
        for i = 1, 10 do if yue.conn(clients[i]):connected() then return false end end
        return true
      end)
      local waiting = {}
      for i = 1, 10 do waiting[i] = clients[i].async_f(round * 100 + i) end
      yue.sleep(0.02)
      endpoint.start()
      for i = 1, 10 do check.equal(waiting[i]:get(), round * 100 + i) end
    end
  end,
}
