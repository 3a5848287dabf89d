-- A server whose `__accept` asks the client who it is. The argument is the limit of a handshake in seconds. It prints
-- its address, and ends with its standard input.
local yue = require 'yue'
yue.config.timeout = 60 -- machines are busy

local events = {}
local listener = yue.listen('tcp://127.0.0.1:0', { ws = true, handshake_timeout = tonumber(arg[1] or 30) }, {
  __accept = function(conn)
    events[#events + 1] = 'accepting'
    -- Once it has answered, its greeting has arrived, and functions can be sent to it.
    local name = conn.procs.who()
    if name == 'sam' then conn.procs.early(function() return 'early' end) end
    if name == 'slow' then yue.sleep(3600) end
    if name == 'error' then error('no entry', 0) end
    if name == 'nobody' then return false end
    events[#events + 1] = 'granting'
    return { user = name, hello = function(x) return 'hello ' .. x end }
  end,
  __close = function(_, reason) events[#events + 1] = 'close: ' .. reason end,
  f = function(x)
    events[#events + 1] = 'f'
    return x
  end,
  events = function() return events end,
  clear = function() events = {} end,
})
print(listener:addr())
io.stdout:flush()
io.read '*a'
os.exit(0)
