-- A program's own fields in a connection do not disturb yue's.
local yue = require 'yue'
local check = require 'check'

local listener = yue.listen('tcp://127.0.0.1:0', {
  enter = function()
    local conn = yue.peer()
    local names = 'id name names address groups pending bindings waiting refused cached'
    for name in names:gmatch '%a+' do conn[name] = 7 end
    conn:bind('close', function() end)
    assert(yue.group('own fields'):join(conn) and conn:latest('key', 'seen', 1))
    return conn:stats().requests, conn:addr():match '^tcp:', tostring(conn):match '^connection', conn.id
  end,
})
local seen = yue.event()
local c = yue.open(listener:addr(), { no_cache = true }, { seen = function() seen:set() end })
local requests, scheme, text, id = c.enter()
check.equal(requests, 1)
check.equal(scheme .. text .. id, 'tcp:connection7')
seen:wait()
check.equal(yue.group('own fields').notify_seen(), 1)
listener:close()
check.done()
