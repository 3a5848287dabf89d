-- Both sides learn which side closed a connection, and its reason.
local check = require 'check'
return {
  needs = { 'connection', 'listener' },
  server = function()
    local reasons = {}
    return {
      __close = function(conn, reason) reasons[conn.name or 'nobody'] = reason end,
      name = function(name) yue.peer().name = name end,
      close_me = function(reason) yue.peer():close(reason) end,
      reason_of = function(name) return reasons[name] end,
    }
  end,
  client = function(endpoint)
    local observer = endpoint.open()
    local function open(name)
      local heard = {}
      local c = endpoint.open({ reconnect = false }, { __close = function(_, reason) heard[#heard + 1] = reason end })
      c.name(name)
      return c, heard
    end
    local function reason_of(name)
      return check.eventually(function() return observer.reason_of(name) end, name .. ' is not closed')
    end
    -- By the client, without a reason and with one.
    local c, heard = open 'plain'
    yue.conn(c):close()
    check.equal(reason_of 'plain', 'closed by the peer')
    check.eventually(function() return #heard == 1 end)
    check.equal(heard[1], 'closed by this side')
    c, heard = open 'reasoned'
    yue.conn(c):close 'good night'
    check.equal(reason_of 'reasoned', 'closed by the peer: good night')
    check.raises('ConnectionLostError', nil, c.name, 'x')
    -- By the server.
    for _, reason in ipairs { '', 'the round is over' } do
      local wanted = reason == '' and 'closed by the peer' or 'closed by the peer: ' .. reason
      local name = 'server' .. #reason
      c, heard = open(name)
      c.notify_close_me(reason)
      check.eventually(function() return #heard == 1 end)
      check.equal(heard[1], wanted)
      check.equal(reason_of(name), 'closed by this side')
    end
  end,
}
