-- Demo 1: the call. No interface description, no connect.
local yue = require 'yue'

-- One side puts functions into a table …
local listener = yue.listen('tcp://127.0.0.1:0', {
  hello = function(name) return 'hello ' .. name end,
})

-- … the other calls them. The connection is made by the first call.
local server = yue.open(listener:addr())
print(server.hello('world'))
assert(server.hello('world') == 'hello world')

-- What may be called is chosen while the program runs.
listener.namespace.bye = function(name) return 'bye ' .. name end
print(server.bye('world'))
assert(server.bye('world') == 'bye world')

listener.namespace.hello = nil
local ok, e = pcall(server.hello, 'world')
print(e)
assert(not ok and e:is_a('NoMethodError'))

listener:close()
