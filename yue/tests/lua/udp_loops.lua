--! options: -c 2
-- Two loops share a udp:// port: a peer stays with the loop to which the kernel gave it.
local check = require 'check'
local index = yue.thread.current.index

-- The kernel spreads the senders anew when a loop begins to listen, or stops. So both wait for each other.
local heard = {}
local here = yue.listen('thread://udp-loops-' .. index % 2, { at = function(point) heard[point] = true end })
local other = yue.open('thread://udp-loops-' .. (index + 1) % 2, { retry = true }, nil)
local function meet(point)
  other.at(point)
  check.eventually(function() return heard[point] end, 'the other loop is there: ' .. point)
end

local listener = yue.listen('udp://127.0.0.1:0', {
  index = function() return index end,
  ask = function() return yue.peer().procs.f() end,
})
check.that(listener:addr():find '^udp://127%.0%.0%.1:%d+$', listener:addr())
meet 'start'
for i = 1, 16 do
  local conn = yue.socket(listener:addr(), { no_cache = true }, { f = function() return i end })
  local first = conn.procs.index()
  for _ = 1, 5 do
    check.equal(conn.procs.index(), first)
    check.equal(conn.procs.ask(), i)
  end
  conn:close()
end
meet 'end'
listener:close()
here:close()
check.done()
