-- Any number of functions in one message, up to the limit, which has an error of its own.
local check = require 'check'

local function make(count)
  local list = {}
  for i = 1, count do list[i] = function() return i end end
  return list
end

local symbols = {
  count = function(list) return #list end,
  call = function(list, i) return list[i]() end,
  make = make,
  use = function(f) return f() end,
  set = function(f, text) return f(text) end,
}
local c, listener = check.pair(symbols)
for _, count in ipairs { 127, 128, 1000, 70000 } do
  check.equal(c.count(make(count)), count)
  collectgarbage()
end
check.equal(c.call(make(300), 299), 299)
local made = c.make(1000)
check.equal(#made, 1000)
check.equal({ made[1](), made[500](), made[1000]() }, { 1, 500, 1000 })
-- Before the link is up they are counted in the same way.
local early = yue.open(listener:addr(), { no_cache = true }, nil)
check.equal(early.count(make(500)), 500)

-- The limit is the one that the options give, and says so.
local few = yue.listen('tcp://127.0.0.1:0', { references_max = 50 }, symbols)
local limited = yue.open(few:addr(), { references_max = 100, no_cache = true }, nil)
check.equal(limited.count(make(100)), 100)
check.eventually(function()
  collectgarbage()
  return yue.conn(limited):stats().functions_held == 0
end, 'they are released')
local e = check.raises('MessageRefusedError', 'args[1][101]', limited.count, make(101))
check.contains(e.msg, 'more than 100 functions, the limit')
check.equal(yue.conn(limited):stats().functions_held, 0)
check.equal(limited.count(make(100)), 100)
check.raises('MessageRefusedError', 'more than 50 functions', limited.make, 51)

-- Many that are collected at once are released within the limit of either side, however low it is.
local small = yue.listen('tcp://127.0.0.1:0', { message_max = 4096 }, symbols)
local large = yue.listen('tcp://127.0.0.1:0', symbols)
local to_small = yue.open(small:addr(), { no_cache = true }, nil)
local to_large = yue.open(large:addr(), { no_cache = true, message_max = 4096, decoded_max = 1e6 }, nil)
for _, case in ipairs { { small, to_small }, { large, to_large } } do
  local proxies = {}
  for i = 1, 20 do proxies[i] = case[2].make(200) end
  check.equal(case[1]:connections()[1]:stats().functions_held, 4000)
  proxies = nil
  check.eventually(function()
    collectgarbage()
    return case[1]:connections()[1]:stats().functions_held == 0
  end, 'they are released')
  check.equal(yue.conn(case[2]):stats().links, 1)
end
small:close()
large:close()

-- One of another connection is refused with the way out.
e = check.raises('ArgumentError', 'belongs to another connection', limited.use, made[1])
check.contains(e.msg, 'pass one of your own')

-- A finalizer that closes the connection runs while room is made for the functions.
local doomed = yue.socket('tcp://127.0.0.1:1', { no_cache = true, retry = true, timeout = 60 }, nil)
local first = doomed.procs.async_take(make(100))
collectgarbage('setstepmul', 10000000)
collectgarbage('stop')
for _ = 1, 50 do
  getmetatable(newproxy(true)).__gc = function() check.that(pcall(doomed.close, doomed)) end
end
local second, call = make(3000), doomed.procs.take
collectgarbage('restart')
check.that(not pcall(call, second))
local ok, failure = first:sync()
check.that(not ok and failure:is_a('RPCError'), 'the call fails with the connection')
collectgarbage('setstepmul', 200)

-- One that a finalizer brings back to life is gone.
local resurrected
do
  local guard = newproxy(true)
  local kept = made[7]
  getmetatable(guard).__gc = function() resurrected = kept end
  made = nil
end
check.eventually(function()
  collectgarbage()
  return resurrected
end, 'the finalizer runs')
check.eventually(function()
  collectgarbage()
  local list = c.make(50)
  local alive, text = pcall(resurrected)
  for i = 1, 50 do check.equal(list[i](), i) end
  -- Either its own finalizer has not run yet, or it is gone; never is it another one.
  if alive then check.equal(text, 7) end
  return not alive and tostring(text):find('was collected', 1, true)
end, 'it is gone')
listener:close()
few:close()
check.done()
