--! stderr: it went wrong
-- Datagrams: calls in both directions over udp://, and what differs from a stream.
local check = require 'check'

local symbols = {
  add = function(a, b) return a + b end,
  none = function() end,
  several = function(...) return ... end,
  ask = function(n) return yue.peer().procs.double(n) + 1 end,
  tell = function(n) return yue.peer().procs.notify_told(n) end,
  big = function(count) return ('x'):rep(count) end,
  nap = function(seconds) yue.sleep(seconds) end,
  fail = function() error 'it went wrong' end,
  addr = function() return yue.peer():addr() end,
  same = function() return yue.peer() == yue.peer() end,
  nested = { f = function() return 'nested' end },
  count = 0,
}
local noted = {}
symbols.note = function(n) noted[#noted + 1] = n end
local l = yue.listen('udp://127.0.0.1:0', symbols)
check.that(l:addr():find '^udp://127%.0%.0%.1:%d+$', l:addr())

local told = {}
local conn = yue.socket(l:addr(), nil, {
  double = function(n) return 2 * n end,
  told = function(n) told[#told + 1] = n end,
})
local c = conn.procs
check.equal(c.add(20, 22), 42)
check.equal(c.nested.f(), 'nested')
check.that(conn:connected())
-- The handler calls back, from the socket to which it was called.
check.equal(c.ask(4), 9)
check.equal(c.tell(7), true)
check.eventually(function() return told[1] == 7 end, 'the caller is notified')
check.equal(c.same(), true)
check.that(c.addr():find '^udp://127%.0%.0%.1:%d+$', c.addr())

-- The results of plain msgpack-rpc: nil for none, an array for several.
check.equal({ c.none() }, {})
check.equal(c.several(1, 2, 3), { 1, 2, 3 })
check.equal(c.several 'one', 'one')

-- All forms of calls.
check.equal({ c.async_add(1, 2):sync() }, { true, 3 })
check.equal(c.timed_add(1, 3, 4), 7)
check.equal(c.notify_note(1), true)
check.equal({ c.async_notify_note(2):sync() }, { true, true })
check.eventually(function() return #noted == 2 end, 'the notifications arrive')
local futures = {}
for i = 1, 100 do futures[i] = c.async_add(i, i) end
for i = 1, 100 do check.equal({ futures[i]:sync() }, { true, 2 * i }) end

-- Errors.
check.raises('RuntimeError', 'it went wrong', c.fail)
check.raises('NoMethodError', 'nothing', c.nothing)
check.raises('NoMethodError', nil, c['=$yue/describe'])
local late = check.raises('TimeoutError', 'may have been lost', c.timed_nap, 0.02, 0.2)
check.that(not late.retryable)
check.raises('ArgumentError', 'function', c.several, function() end)
local fresh = yue.socket(l:addr(), { no_cache = true }, nil)
check.raises('ArgumentError', 'datagrams carry plain values only', fresh.procs.several, function() end)
check.equal(fresh.procs.several(5), 5)
fresh:close()
check.eventually(function() return #l:connections() == 2 end, 'its peer stays until it has been silent')
for _, peer in ipairs(l:connections()) do
  if peer:addr() ~= c.addr() then peer:close() end
end
check.raises('MessageTooLargeError', '65507', c.add, ('x'):rep(65507), 1)
check.raises('MessageTooLargeError', '65507', c.big, 65507)
check.equal(#c.big(60000), 60000)
check.raises('ArgumentError', 'mcast:// address', c.mcast_add, 1, 2)
check.raises('ArgumentError', 'mcast:// address', c.notify_mcast_add, 1, 2)

-- One peer is one connection, with its own object.
check.equal(#l:connections(), 1)
local seen = l:connections()[1]
check.equal(seen.procs.double(21), 42)
check.equal(seen:addr(), c.addr())

-- Nobody at the port: the calls in flight are refused, and the socket stays.
local there = l:addr()
l:close()
check.that(not seen:connected())
check.eventually(function()
  local fine, e = pcall(c.timed_add, 0.1, 1, 2)
  return not fine and e:is_a 'ConnectionRefusedError'
end, 'its socket is closed')
local refused = check.raises('ConnectionRefusedError', there, c.add, 1, 2)
check.that(not refused.retryable)
l = yue.listen(there, symbols)
check.equal(c.add(1, 2), 3)
check.equal(conn:stats().links, 1)
conn:close()
l:close()
check.done()
