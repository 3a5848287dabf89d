-- A loop that never comes back from its Lua code is reported as such by the admin endpoint, and the others answer.
local check = require 'check'
local endpoint = require 'admin'
local ffi = require 'ffi'

-- Memory that both threads see: the address is passed as text. Compiled code would read it once.
local stop = ffi.new 'int[1]'
local address = tostring(ffi.cast('intptr_t', stop)):match '%d+'
local t = yue.thread('busy', function()
  local ffi = require 'ffi'
  jit.off()
  yue.thread.current:import {
    spin_until = function(address)
      local stop = ffi.cast('int *', ffi.cast('intptr_t', tonumber(address)))
      while stop[0] == 0 do end
      return 'done'
    end,
  }
end)
local spinning = t.procs.timed_async_spin_until(600, address)
local a = endpoint.open()

-- It takes a while to begin.
local function busy()
  local busy, others = nil, 0
  for _, one in ipairs(a.loops()) do
    if one.thread:find 'busy' then busy = one else others = others + (one.answers and 1 or 0) end
  end
  return busy, others
end
check.eventually(function()
  local one, others = busy()
  return not one.answers and one.blocked_seconds and others == 1
end, 'it is reported as blocked')
local before = busy().blocked_seconds
check.that(before > 0)
check.eventually(function() return busy().blocked_seconds > before end, 'and the time grows')

-- Its fiber and its line are named; the fibers of the other loop are listed.
local page = check.eventually(function()
  local page = a.fibers()
  local own = false
  for _, fiber in ipairs(page.fibers) do own = own or (fiber.origin or ''):find 'admin_busy.lua' end
  return own and page.blocked[1] and page.blocked[1].stack and page
end)
check.equal(#page.blocked, 1)
check.contains(page.blocked[1].thread, 'busy')
check.contains(page.blocked[1].stack, 'admin_busy.lua')
check.that(page.blocked[1].seconds > 0 and page.blocked[1].fiber)

-- So it is with the other lists, and with the counters, which ask nobody.
local number = busy().loop
check.eventually(function()
  local waits, connections, listeners = a.waits(), a.connections(), a.listeners()
  return #waits.groups > 0 and waits.blocked[1] == number and #connections.connections > 0
    and connections.blocked[1] == number and listeners.blocked[1] == number
end)
check.contains(a.metrics(), ('yue_loop_working{loop="%d"} 1'):format(number))

-- When it comes back, it is one of them again.
stop[0] = 1
check.equal(spinning:get(), 'done')
check.eventually(function()
  local one = busy()
  return one.answers and not one.blocked_seconds
end)
check.eventually(function() return #a.waits().blocked == 0 end)
t:close()
t:join()
check.done()
