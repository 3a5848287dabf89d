--! stderr: printed by the child
--! stderr: the handler of boom failed
--! stderr: not found
-- popen:// starts a program and calls it over its standard input and output; stdio:// serves them in the program.
local check = require 'check'
local yue = require 'yue'

if arg[1] == 'child' then
  yue.listen('stdio://', {
    add = function(a, b) return a + b end,
    call_back = function(f) return 'child got ' .. f(20) end,
    ask = function() return yue.peer().procs.mine('x') end,
    size = function(s) return #s, s end,
    count = function(n) for i = 1, n do yue.peer().procs.notify_tick(i) end return n end,
    boom = function() error 'no' end,
    leave = function(code) os.exit(code) end,
    addr = function() return yue.peer():addr() end,
  })
  -- Not into the protocol. Standard input is the protocol's, too.
  print 'printed by the child'
  check.equal(io.read(), nil)
  check.raises('AddressError', 'taken already', yue.listen, 'stdio://', {})
  return
end

local lowest = 0
while arg[lowest - 1] do lowest = lowest - 1 end
local command = ("'%s' '%s' child"):format(arg[lowest], arg[0])
local ticks = {}
local mine = { mine = function(x) return x .. '!' end, tick = function(i) ticks[#ticks + 1] = i end }
local c = yue.open('popen://' .. command, nil, mine)
check.equal(c.add(2, 3), 5)
check.equal(c.addr(), 'stdio://')
check.equal(c.call_back(function(n) return n + 1 end), 'child got 21')
check.equal(c.ask(), 'x!')
local count, text = c.size(('x'):rep(3000000))
check.equal({ count, #text }, { 3000000, 3000000 })
check.equal(c.count(5000), 5000)
check.eventually(function() return #ticks == 5000 end)
check.equal({ ticks[1], ticks[5000] }, { 1, 5000 })
check.raises('RuntimeError', 'no', c.boom)

-- 200 calls at once, each with 20 kB in both directions: neither side waits for the other's reading.
local futures = {}
for i = 1, 200 do futures[i] = c.async_size(('y'):rep(20000)) end
for i = 1, 200 do check.equal((futures[i]:get()), 20000) end

-- A child that ends fails the calls that it has read; the next call starts another one.
check.raises('ConnectionLostError', 'status 3', c.leave, 3)
check.equal(c.add(1, 1), 2)

-- Closing the connection ends the child's input, and so the child.
local conn = yue.conn(c)
conn:close()

-- A command that the shell cannot run is an error at once, and is not tried again and again.
local started = yue.util.time.now()
check.raises('RPCError', 'the shell cannot run the command', yue.open('popen:///no/such/program --x').f)
check.that(yue.util.time.now() - started < 2e6, 'it was tried again and again')
-- One that ends by itself is started again, within the time of the call.
check.raises('TimeoutError', 'status 4', yue.open('popen://exit 4').timed_f, 0.5)
-- A program that speaks something else.
local foreign = yue.open 'popen://echo hello; cat >/dev/null'
check.raises('ConnectionLostError', 'not a msgpack-rpc message', foreign.timed_f, 1)

-- A command that does not end by itself is killed, with the processes that it has started.
local file = os.tmpname()
local stuck = yue.socket("popen://sh -c 'echo $$ >" .. file .. "; exec sleep 600'; true", { reconnect = false }, nil)
check.raises('TimeoutError', nil, stuck.procs.timed_f, 0.3)
local function is_running(number)
  local status = io.open('/proc/' .. number .. '/stat')
  local text = status and status:read '*a' or ''
  if status then status:close() end
  return text:match '%) (%u)' == 'S'
end
local number = check.eventually(function() return io.open(file):read '*l' end)
check.that(is_running(number))
stuck:close()
check.eventually(function() return not is_running(number) end, 'its process runs on')
os.remove(file)

check.raises('AddressError', 'a command can only be opened', yue.listen, 'popen://cat', {})
check.raises('AddressError', 'the command is missing', yue.open, 'popen://')
check.raises('AddressError', 'nothing follows', yue.listen, 'stdio://0', {})
check.done()
