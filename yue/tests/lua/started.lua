--! stderr: the handler of nap_of_client failed
-- A handler that has started runs to its end, whatever its caller does: over every transport, and when it calls on.
-- Only with `cancel = true` does a caller decide where it stops.
local check = require 'check'
local yue = require 'yue'

local gold, items
local function db() yue.sleep(0.05) end

-- Pays first, takes after the database has answered.
local symbols = {
  sell = function()
    gold = gold + 10
    db()
    items = items - 1
    return 'sold'
  end,
  resell = function(address) return yue.open(address).sell() end,
  deadline = function() return yue.deadline() end,
  deadline_of_child = function() return yue.spawn(yue.deadline):get() end,
}

local path = os.tmpname()
os.remove(path)
local addresses = { 'tcp://127.0.0.1:0', 'unix://' .. path, 'thread://shop' }
local back = yue.listen('tcp://127.0.0.1:0', symbols)

for _, address in ipairs(addresses) do
  local listener = yue.listen(address, symbols)
  local shop = yue.open(listener:addr(), { no_cache = true }, nil)
  shop.deadline()
  for _, call in ipairs {
    function() shop.timed_sell(0.02) end,
    function() shop.timed_resell(0.02, back:addr()) end,
    function() yue.timeout(0.02, shop.sell) end,
  } do
    gold, items = 100, 100
    for _ = 1, 5 do check.raises('TimeoutError', nil, call) end
    local function whole() return gold == 100 + 10 * (100 - items) end
    check.eventually(whole, address .. ': half a sale was made')
    -- A sale that began late may be under way.
    yue.sleep(0.1)
    check.eventually(whole, address .. ': half a sale was made')
  end
  gold, items = 100, 1
  local future = shop.async_sell()
  check.eventually(function() return gold == 110 end)
  future:cancel()
  check.eventually(function() return items == 0 end, address .. ': a cancel stopped the sale')
  -- And when the link is lost.
  future = shop.async_sell()
  check.eventually(function() return gold == 120 end)
  yue.conn(shop):close()
  check.eventually(function() return items == -1 end, address .. ': the end of the link stopped the sale')
  check.raises('Error', nil, future.get, future)
  listener:close()
end

-- The caller's remaining time.
check.equal(yue.deadline(), nil)
local c = yue.open(back:addr())
for _, f in ipairs { c.timed_deadline, c.timed_deadline_of_child } do
  local left = f(100)
  check.that(left > 50 and left < 101, left)
end
check.that(c.deadline() < 5.1)
local plain = yue.open(back:addr(), { legacy = true }, nil)
check.equal(plain.timed_deadline(100), nil, 'a plain client does not tell')

-- With `cancel` the caller decides: of a listener, of an opened connection, and of a thread.
local stopped = {}
local function nap(name)
  local ok, e = pcall(yue.sleep, 60)
  stopped[name] = not ok and e.type
end
local function is_stopped(name)
  local how = check.eventually(function() return stopped[name] end, name .. ' still runs')
  check.that(how == 'TimeoutError' or how == 'CancelledError', how)
end
local function until_it_starts(name, call)
  local seconds = 0.02
  repeat -- On a machine that is busy the time may be over before the handler has started.
    stopped[name] = nil
    -- The handler stops when its caller gives up, so its answer may just win.
    pcall(call, seconds)
    yue.sleep(0.1)
    seconds = seconds * 2
  until stopped[name]
  is_stopped(name)
end
local listener = yue.listen('tcp://127.0.0.1:0', { cancel = true }, {
  nap = nap,
  nap_of_client = function(seconds) yue.peer().procs.timed_nap(seconds, 'opened') end,
})
local client = yue.open(listener:addr(), { cancel = true, timeout = 60 }, { nap = nap })
until_it_starts('listener', function(seconds) client.timed_nap(seconds, 'listener') end)
until_it_starts('opened', client.nap_of_client)

for _, cancel in ipairs { true, false } do
  local t = yue.thread('napper', function()
    local how = 'not started'
    yue.thread.current:import {
      nap = function()
        how = 'started'
        local ok, e = pcall(yue.sleep, 0.3)
        how = ok and 'to its end' or e.type
      end,
      how = function() return how end,
    }
  end, { cancel = cancel, timeout = 60 }, {})
  local seconds = 0.02
  repeat
    pcall(t.procs.timed_nap, seconds)
    seconds = seconds + 0.01
  until t.procs.how() ~= 'not started'
  check.eventually(function() return t.procs.how() ~= 'started' end)
  local how = t.procs.how()
  if cancel then
    check.that(how == 'TimeoutError' or how == 'CancelledError', how)
  else
    check.equal(how, 'to its end')
  end
  t:close()
end
check.raises('ArgumentError', 'cancel', yue.thread, 'napper', function() end, { cancel = 1 }, {})
check.raises('ArgumentError', 'cancel', yue.listen, 'tcp://127.0.0.1:0', { cancel = 1 }, {})

listener:close()
back:close()
check.done()
