--! stderr: keeps its old certificate
-- SIGHUP: listeners read their certificates again, unless the program handles the signal itself.
local check = require 'check'
local ffi = require 'ffi'
ffi.cdef 'int kill(int pid, int signal); int getpid(void);'
local folder = os.getenv 'YUE_CERTIFICATES' .. '/'

local function copy(from, to)
  local source, target = assert(io.open(folder .. from .. '.pem')), assert(io.open(folder .. to, 'w'))
  target:write(source:read '*a')
  source:close()
  target:close()
end

local function hang_up() ffi.C.kill(ffi.C.getpid(), yue.const.SIGHUP) end

copy('server', 'live')
copy('server-key', 'live-key')
local options = { cert = folder .. 'live', key = folder .. 'live-key' }
local l = yue.listen('tls://127.0.0.1:0', options, { ping = function() return 'pong' end })
local other = yue.listen('wss://127.0.0.1:0', options, {})

-- The program's own handler gets it alone.
local own = yue.signal(yue.const.SIGHUP)
local heard = 0
own:bind('signal', function() heard = heard + 1 end)
hang_up()
check.eventually(function() return heard == 1 end, 'the program handles it')
own:close()

-- No client connects meanwhile, so nothing else looks at the files: the fault is logged (see above).
copy('misnamed', 'live')
hang_up()
yue.sleep(0.2)
-- It has not ended the process, and the old certificate stays.
local old = yue.open(l:addr(), { ca = folder .. 'ca.pem', no_cache = true }, nil)
check.equal(old.ping(), 'pong')
copy('misnamed-key', 'live-key')
hang_up()
local function ping(name)
  return yue.open(l:addr(), { ca = folder .. 'ca.pem', server_name = name, no_cache = true }, nil).ping()
end
check.eventually(function() return (pcall(ping, 'example.org')) end, 'the new one is in use')
other:close()
hang_up()
yue.sleep(0.1)
check.equal(ping 'example.org', 'pong')
l:close()
check.done()
