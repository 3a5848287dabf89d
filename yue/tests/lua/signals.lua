-- Signals: bound, waited for, closed; SIGINT and SIGTERM are the program's own once it binds them.
local check = require 'check'
local ffi = require 'ffi'
ffi.cdef 'int kill(int pid, int signal); int getpid(void);'
local function send(number) ffi.C.kill(ffi.C.getpid(), number) end

local got = {}
local usr1 = yue.signal(yue.const.SIGUSR1)
usr1:bind('signal', function(number) got[#got + 1] = number end)
send(yue.const.SIGUSR1)
check.eventually(function() return #got == 1 end)
check.equal(got[1], yue.const.SIGUSR1)

-- Two may want the same one.
local other = yue.signal(yue.const.SIGUSR1)
local waiter = yue.spawn(other.wait, other, 'signal')
yue.yield()
send(yue.const.SIGUSR1)
check.equal({ waiter:get() }, { true, yue.const.SIGUSR1 })
check.eventually(function() return #got == 2 end)
other:close()
other:close()
send(yue.const.SIGUSR1)
check.eventually(function() return #got == 3 end)
usr1:close()
check.contains(tostring(usr1), 'closed')

-- The program decides what SIGTERM means; else this would be its end.
local term = yue.signal(yue.const.SIGTERM)
local int = yue.signal(yue.const.SIGINT)
waiter = yue.spawn(term.wait, term, 'signal')
yue.yield()
send(yue.const.SIGTERM)
check.equal(waiter:get(), true)
term:close()
int:close()

-- It is caught from the moment that yue.signal returns, whatever other threads do at that time.
local thread = yue.thread('computes', function()
  yue.thread.current:import {
    compute = function(seconds)
      local over = os.clock() + seconds
      while os.clock() < over do end
    end,
  }
end)
local computed = thread.procs.async_compute(0.3)
for _ = 1, 20 do
  local heard = 0
  local hup = yue.signal(yue.const.SIGHUP)
  hup:bind('signal', function() heard = heard + 1 end)
  send(yue.const.SIGHUP)
  check.eventually(function() return heard == 1 end)
  hup:close()
end
computed:get()
thread:close()

check.raises('ArgumentError', 'number', yue.signal)
check.raises('ArgumentError', 'number', yue.signal, 'SIGINT')
check.raises('ArgumentError', 'number', yue.signal, 2.5)
for _, wrong in ipairs { 0, -1, 9, 19, 11, 1000, 1e20 } do check.raises('ArgumentError', nil, yue.signal, wrong) end
check.done()
