--! stderr: __close failed, for tcp://127.0.0.1:
--! stderr: __timeout failed, for tcp://127.0.0.1:
--! stderr: __open failed, for tcp://127.0.0.1:
-- A connection's life: events, callbacks, reconnection, closing.
local check = require 'check'

local symbols = {
  echo = function(...) return ... end,
  slow = function(s) yue.sleep(s) return 'slow' end,
  hang_up = function() yue.peer():close() end,
}
local listener = yue.listen('tcp://127.0.0.1:0', symbols)

-- Callbacks and events of the client
local seen = {}
local function note(what) return function(_, reason) seen[#seen + 1] = what .. ' ' .. tostring(reason) end end
local conn = yue.socket(listener:addr(), nil, {
  __open = note 'open', __accept = function(...) note 'accept'(...) return true end,
  __timeout = note 'timeout', __close = function(...) note 'close'(...) return true end,
})
local bound = {}
conn:bind({ 'open', 'accept', 'close', 'timeout' }, function() bound[#bound + 1] = true end)
check.equal(conn.procs.echo(1), 1)
check.equal({ seen[1], seen[2] }, { 'open nil', 'accept true' })
check.raises('TimeoutError', nil, conn.procs.timed_slow, 0.01, 60)
check.eventually(function() return seen[3] == 'timeout nil' end)
-- The link is lost and made again; a call that waited for its answer fails, those after it are held.
check.raises('ConnectionLostError', nil, conn.procs.hang_up)
check.equal(conn.procs.echo(2), 2)
check.contains(seen[4], 'close')
check.eventually(function() return #bound >= 6 end)
check.equal(conn:stats().links, 2)

-- Held calls survive: many, made while the link is down.
pcall(conn.procs.hang_up)
local held = {}
for i = 1, 50 do held[i] = conn.procs.async_echo(i) end
for i = 1, 50 do check.equal(held[i]:get(), i) end

-- wait for an event
local waiter = yue.spawn(conn.wait, conn, 'close')
yue.yield()
pcall(conn.procs.hang_up)
check.equal({ waiter:get() }, { true, 'closed by the peer' })
check.equal(conn.procs.echo(3), 3)

-- Closing: twice is once; calls fail; who bound close is told.
local told = {}
conn:bind('close', function(reason) told[#told + 1] = reason end)
conn:close()
conn:close()
check.eventually(function() return #told == 1 end)
check.contains(told[1], 'closed by this side')
check.raises('ConnectionLostError', nil, conn.procs.echo)
check.raises('ConnectionLostError', nil, function() conn.procs.async_echo():get() end)
check.equal({ conn.procs.notify_echo(), conn.procs.timed_notify_echo(1) }, { false, false })
check.equal({ conn.procs.async_notify_echo():sync() }, { true, false })
check.raises('ConnectionLostError', nil, conn.procs.timed_echo, 1)
check.that(not conn:connected())
check.raises('RuntimeError', 'closed', conn.bind, conn, 'close', print)
check.equal(conn:wait('close'), false)
check.contains(tostring(conn), 'closed')
check.contains(conn:addr(), 'tcp://')

-- Events of accepted connections, bound in a handler, outlive any collection.
local gone = {}
symbols.watch = function(name) yue.peer():bind('close', function() gone[name] = true end) end
local a = yue.open(listener:addr(), { no_cache = true }, nil)
a.watch('a')
collectgarbage() collectgarbage()
yue.conn(a):close()
check.eventually(function() return gone.a end)
check.eventually(function() collectgarbage() return #listener:connections() == 0 end)

-- reconnect = false: the next call still connects, but what was in the air fails.
local b = yue.open(listener:addr(), { no_cache = true, reconnect = false }, nil)
check.raises('ConnectionLostError', nil, b.hang_up)
check.equal(b.echo(1), 1)

-- A server that comes back at the same address
local back = yue.listen('tcp://127.0.0.1:0', { f = function() return 'first' end })
local address = back:addr()
local d = yue.open(address, { no_cache = true, timeout = 60 }, nil)
check.equal(d.f(), 'first')
back:close()
check.eventually(function() return not yue.conn(d):connected() end)
local late = d.async_f()
yue.sleep(0.02)
back = yue.listen(address, { f = function() return 'second' end })
check.equal(late:get(), 'second')
back:close()
yue.conn(d):close()

-- Opens of one address share; those with options of their own or symbols do not; what is closed is not shared.
check.equal(yue.open(listener:addr()), yue.open(listener:addr()))
check.that(yue.open(listener:addr(), { no_cache = true }, nil) ~= yue.open(listener:addr()))
check.that(yue.open(listener:addr(), {}) ~= yue.open(listener:addr()))
local shared = yue.open(listener:addr())
yue.conn(shared):close()
check.that(yue.open(listener:addr()) ~= shared)
check.equal(yue.open(listener:addr()).echo(4), 4)

-- Errors in callbacks: told, and the connection closes; nothing else suffers.
local broken = yue.open(listener:addr(), { reconnect = false }, { __open = function() error('in __open') end })
check.raises('Error', nil, broken.echo, 1)
broken = yue.open(listener:addr(), nil, { __timeout = function() error('in __timeout') end })
check.raises('TimeoutError', nil, broken.timed_slow, 0.01, 60)
check.eventually(function() return not yue.conn(broken):connected() end)
broken = yue.open(listener:addr(), nil, { __close = function() error('in __close') end })
pcall(broken.hang_up)
check.equal(yue.open(listener:addr()).echo(5), 5)

-- What nobody can reach is closed when it is collected; what somebody waits for is not.
local before = #listener:connections()
for _ = 1, 20 do check.equal(yue.open(listener:addr(), { no_cache = true }, nil).echo(6), 6) end
check.eventually(function()
  collectgarbage()
  return #listener:connections() <= before
end, 'connections that nobody holds are closed')
local answer = yue.open(listener:addr(), { no_cache = true }, nil).async_slow(0.05)
for _ = 1, 5 do collectgarbage() yue.sleep(0.002) end
check.equal(answer:get(), 'slow')

listener:close()
listener:close()
check.contains(tostring(listener), 'closed')
check.equal(listener:connections(), {})
-- A reason may be anything, also what cannot be told.
do
  local odd = { 5, false, {}, setmetatable({}, { __tostring = function() error 'no text' end }) }
  local accepted
  local server = yue.listen('tcp://127.0.0.1:0', { f = function() accepted = yue.peer() end })
  for _, reason in ipairs(odd) do
    local heard
    local client = yue.open(server:addr(), { reconnect = false, no_cache = true }, {
      __close = function(_, why) heard = why end,
    })
    client.f()
    accepted:close(reason)
    check.eventually(function() return heard end)
    check.that(heard:find 'closed by the peer: ', heard)
    check.eventually(function() return #server:connections() == 0 end)
  end
  server:close()
end

-- Nobody gets into a listener that is closed, not even for a moment.
for _ = 1, 3 do
  local server = yue.listen('tcp://127.0.0.1:0', { f = function() end })
  server:close()
  check.raises('ConnectionRefusedError', nil, yue.open(server:addr(), { no_cache = true }, nil).f)
end

-- However long a peer may be silent, the system can be told.
do
  local server = yue.listen('tcp://127.0.0.1:0', { keepalive = 1e9 }, { f = function() return 'f' end })
  for _, keepalive in ipairs { 1e6, 1e300, math.huge } do
    check.equal(yue.open(server:addr(), { no_cache = true, keepalive = keepalive }, nil).f(), 'f')
  end
  server:close()
end

-- The same rate is the same option.
do
  local server = yue.listen('tcp://127.0.0.1:0', {})
  local function opened(rate) return yue.open(server:addr(), { rate = rate }, nil) end
  check.that(opened { calls = 5 } == opened { calls = 5 })
  check.that(opened { calls = 5 } ~= opened { calls = 6 })
  check.that(opened { calls = 5, burst = 2 } ~= opened { calls = 5 })
  server:close()
end

check.done()
