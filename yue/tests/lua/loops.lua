--! options: -c 3
-- Three loops run this at once and share their port; connections stay with the loop that accepted them.
local check = require 'check'
local index = yue.thread.current.index
local listener = yue.listen('tcp://127.0.0.1:0', { index = function() return index end })
check.that(index >= 1 and index <= 3)
-- All have the same port.
local first = yue.listen('unix:///tmp/yue-loops-test-' .. index .. '-' .. listener:addr():match('%d+$'), {
  address = function() return listener:addr() end,
})
local port = listener:addr():match('%d+$')
local next_one = 'unix:///tmp/yue-loops-test-' .. index % 3 + 1 .. '-' .. port
local other = yue.open(next_one, { retry = true, timeout = 60 }, nil)
check.equal(other.timed_address(60), listener:addr())
local c = yue.open(listener:addr(), { no_cache = true }, nil)
local mine = c.index()
for _ = 1, 20 do check.equal(c.index(), mine) end
-- The others may still ask.
yue.sleep(0.3)
first:close()
listener:close()
check.done()
