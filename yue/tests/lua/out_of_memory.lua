--! stderr: the handler of eat failed, called by thread://
--! stderr: RuntimeError: not enough memory
-- A handler that uses up all memory: its caller gets an error with text, and the server continues.
local check = require 'check'
local ffi = require 'ffi'
ffi.cdef [[
  struct rlimit { unsigned long current, maximum; };
  int getrlimit(int what, struct rlimit *limit);
  int setrlimit(int what, const struct rlimit *limit);
]]
local ADDRESS_SPACE = 9
local limit = ffi.new 'struct rlimit'
check.equal(ffi.C.getrlimit(ADDRESS_SPACE, limit), 0)
local before = limit.current

local function address_space()
  local pages
  for line in io.lines('/proc/self/statm') do pages = tonumber(line:match '^%d+') end
  return pages * 4096
end

-- In a VM of its own, for this one needs a little memory to hear of it.
local thread = yue.thread('eater', function()
  yue.thread.current:import {
    eat = function() local t = {} while true do t[#t + 1] = { {}, {}, {} } end end,
    ping = function() return 'pong' end,
  }
end)
local c = thread.procs
check.equal(c.ping(), 'pong')
collectgarbage()
limit.current = address_space() + 200 * 2 ^ 20
check.equal(ffi.C.setrlimit(ADDRESS_SPACE, limit), 0)
local ok, e = pcall(c.timed_eat, 60)
limit.current = before
check.equal(ffi.C.setrlimit(ADDRESS_SPACE, limit), 0)
check.that(not ok)
check.equal({ e.type, e.msg }, { 'RuntimeError', 'not enough memory' })
check.equal(c.ping(), 'pong')
thread:close()
check.done()
