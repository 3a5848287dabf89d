-- Demo 2: a connection has a life. The server logs its clients in before anything else may be called, as straight-line
-- code; calls made meanwhile wait by themselves, through a refused login, too.
local yue = require 'yue'

local accounts = { frodo = 'mellon' }
local attempts = 0

local listener = yue.listen('tcp://127.0.0.1:0', {
  -- Runs once per connection. It calls the client and waits for the answers.
  __accept = function(conn)
    attempts = attempts + 1
    local name, password = conn.procs.account()
    if accounts[name] ~= password then return false end
    return { name = name, level = 7 } -- granted; the client gets this
  end,
  attack = function(monster) return monster .. ' is defeated' end,
})

local passwords = { 'wrong', 'mellon' }
local granted

local server = yue.open(listener:addr(), { timeout = 10 }, {
  account = function() return 'frodo', table.remove(passwords, 1) end,
  __accept = function(conn, player)
    granted = player
    return true
  end,
  -- A true result connects again: after the refusal here, after a broken link elsewhere.
  __close = function(conn, reason)
    print('closed: ' .. reason)
    return true
  end,
})

-- This call connects, is held while the first password is refused and the second accepted, and then goes out.
print(server.attack('the goblin'))
print(('logged in as %s, level %d, at attempt %d'):format(granted.name, granted.level, attempts))
assert(attempts == 2 and granted.level == 7)

listener:close()
yue.conn(server):close()
