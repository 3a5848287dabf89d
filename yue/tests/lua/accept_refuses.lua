-- __accept refuses with a reason: the client gets it, and nothing is logged: it is not a failure. And groups that a
-- connection joins there.
local check = require 'check'

local listener = yue.listen('tcp://127.0.0.1:0', {
  __accept = function(conn)
    local name = conn.procs.name()
    if name == 'bob' then error(yue.errors.NotGrantedError.new('the name bob is taken')) end
    return true
  end,
  f = function() return 'in' end,
})

local function open(name)
  return yue.open(listener:addr(), { no_cache = true }, { name = function() return name end })
end

local e = check.raises('NotGrantedError', 'the name bob is taken', function() open 'bob'.f() end)
check.that(not e.bt or not e.bt:find 'the name bob', 'a stranger gets no traceback')
check.equal(open 'sam'.f(), 'in')
listener:close()

-- A member that joins in __accept is notified before the client is granted.
local lobby = yue.group()
listener = yue.listen('tcp://127.0.0.1:0', {
  __accept = function(conn)
    lobby:join(conn)
    check.equal(lobby.notify_hear 'early', 1)
    -- The client has handled the notification when it answers.
    conn.procs.name()
    return true
  end,
  f = function() return 'in' end,
})
local order = {}
local client = yue.open(listener:addr(), { no_cache = true }, {
  name = function() return 'sam' end,
  hear = function(text) order[#order + 1] = text end,
  __accept = function() order[#order + 1] = 'granted' return true end,
})
check.equal(client.f(), 'in')
check.equal(order, { 'early', 'granted' })
listener:close()
check.done()
