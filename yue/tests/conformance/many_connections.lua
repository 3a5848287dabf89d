-- Many connections to one server: each has its own state, and all end.
local check = require 'check'
return {
  needs = { 'connection', 'listener' },
  server = function(server)
    return {
      enter = function(name) yue.peer().name = name end,
      name = function() return yue.peer().name end,
      count = function() return #server.listener:connections() end,
    }
  end,
  client = function(endpoint)
    local observer = endpoint.open()
    check.equal(observer.count(), 1)
    local clients, fibers = {}, {}
    for i = 1, 100 do
      fibers[i] = yue.spawn(function()
        clients[i] = endpoint.open { timeout = 60 }
        clients[i].enter(i)
      end)
    end
    for i = 1, 100 do fibers[i]:get() end
    check.equal(observer.count(), 101)
    for i = 1, 100 do check.equal(clients[i].name(), i) end
    for i = 1, 100 do yue.conn(clients[i]):close() end
    check.eventually(function() return observer.count() == 1 end)
  end,
}
