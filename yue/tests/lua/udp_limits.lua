-- The peers of a datagram listener: accepted, limited, forgotten; and their rate.
local check = require 'check'

local function open(addr, symbols)
  return yue.socket(addr, { no_cache = true, timeout = 10 }, symbols)
end

-- `__accept` runs once for each peer, whose requests wait. What it returns does not travel.
local accepted, closed = 0, {}
local l = yue.listen('udp://127.0.0.1:0', { peer_idle = 0.2 }, {
  add = function(a, b) return a + b end,
  __accept = function(conn)
    accepted = accepted + 1
    return conn.procs.password() == 'mellon'
  end,
  __close = function(conn, reason) closed[conn:addr()] = tostring(reason) end,
})
local c = open(l:addr(), { password = function() return 'mellon' end })
check.equal(c.procs.add(1, 2), 3)
check.equal(c.procs.add(3, 4), 7)
check.equal(accepted, 1)
local wrong = open(l:addr(), { password = function() return 'sesame' end })
check.raises('NotGrantedError', nil, wrong.procs.add, 1, 2)
check.equal(accepted, 2)

-- A silent peer is forgotten; with its next call it is a new one.
local address = l:connections()[1]:addr()
check.eventually(function() return #l:connections() == 0 and closed[address] end, 'both are forgotten')
check.contains(closed[address], 'silent')
check.equal(c.procs.add(5, 6), 11)
check.equal(accepted, 3)
c:close()
wrong:close()
l:close()

-- The least recently used idle peer makes room for another.
l = yue.listen('udp://127.0.0.1:0', { connections_max = 3 }, {
  addr = function() return yue.peer():addr() end,
  nap = function(seconds) yue.sleep(seconds) return 'rested' end,
})
local busy = open(l:addr())
local nap = busy.procs.async_nap(0.3)
local first, second, third = open(l:addr()), open(l:addr()), open(l:addr())
local oldest = first.procs.addr()
second.procs.addr()
third.procs.addr()
check.equal(#l:connections(), 3)
check.equal(l:stats().peers_evicted, 1)
for _, conn in ipairs(l:connections()) do check.that(conn:addr() ~= oldest, 'the oldest has gone') end
check.equal({ nap:sync() }, { true, 'rested' })
check.equal(first.procs.addr(), oldest)
for _, conn in ipairs { busy, first, second, third } do conn:close() end
l:close()

-- A peer that calls too often is refused, and others are served.
l = yue.listen('udp://127.0.0.1:0', { rate = { calls = 1, burst = 2 } }, { f = function() return 1 end })
local eager, other = open(l:addr()), open(l:addr())
local outcomes = { ok = 0, busy = 0 }
for _ = 1, 10 do
  local ok, e = pcall(eager.procs.f)
  if ok then
    outcomes.ok = outcomes.ok + 1
  elseif e:is_a 'ServerBusyError' then
    outcomes.busy = outcomes.busy + 1
  end
end
check.that(outcomes.ok >= 2 and outcomes.ok + outcomes.busy == 10, check.show(outcomes))
check.equal(other.procs.f(), 1)
eager:close()
other:close()
l:close()

check.raises('AddressError', 'the port is missing', yue.listen, 'udp://127.0.0.1', {})
check.raises('ArgumentError', 'peer_idle', yue.listen, 'udp://127.0.0.1:0', { peer_idle = 0 }, {})
check.done()
