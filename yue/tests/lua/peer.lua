-- yue.peer(): calls back to the caller in the middle of a call, also from fibers that the handler starts.
local check = require 'check'
check.equal(yue.peer(), nil)

local symbols
symbols = {
  ask = function(x) return 'asked ' .. yue.peer().procs.answer(x) end,
  same = function() return yue.peer() == yue.peer() end,
  remember = function(x) yue.peer().note = x end,
  recall = function() return yue.peer().note end,
  from_fiber = function()
    return yue.spawn(function()
      yue.sleep(0.001)
      return yue.spawn(function() return yue.peer().procs.answer('deep') end):get()
    end):get()
  end,
  down = function(n) return n == 0 and 0 or 1 + yue.peer().procs.up(n - 1) end,
  through_future = function() return yue.peer().procs.async_answer('f'):get() end,
  inside_client = function()
    local ok, result = yue.client(function() return yue.peer().procs.answer('client') end)
    return ok and result
  end,
  inside_timeout = function() return yue.timeout(60, function() return yue.peer().procs.answer('t') end) end,
  address = function() return yue.peer():addr() end,
  namespace = function() return yue.peer().namespace.ask ~= nil end,
}
local client_symbols = {
  answer = function(x) return x .. '!' end,
  up = function(n) return n == 0 and 0 or 1 + yue.peer().procs.down(n - 1) end,
}
local listener = yue.listen('tcp://127.0.0.1:0', symbols)
local c = yue.open(listener:addr(), nil, client_symbols)

check.equal(c.ask('x'), 'asked x!')
check.equal(c.same(), true)
check.equal(c.from_fiber(), 'deep!')
check.equal(c.down(20), 20)
check.equal(c.through_future(), 'f!')
check.equal(c.inside_client(), 'client!')
check.equal(c.inside_timeout(), 't!')
check.contains(c.address(), '127.0.0.1')
check.equal(c.namespace(), true)
check.equal(yue.peer(), nil)

-- What a handler notes in the connection is there for the next one, whatever the collector does.
local d = yue.open(listener:addr(), nil, client_symbols)
c.remember('c') d.remember('d')
collectgarbage() collectgarbage()
yue.sleep(0.001)
check.equal({ c.recall(), d.recall() }, { 'c', 'd' })

-- The answering side has a peer too: the server.
client_symbols.answer = function() return yue.peer() == yue.conn(c), yue.peer() == yue.conn(d) end
local count = { 0, 0 }
for _, conn in ipairs(listener:connections()) do
  local is_c, is_d = conn.procs.answer()
  count = { count[1] + (is_c and 1 or 0), count[2] + (is_d and 1 or 0) }
end
check.equal(count, { 1, 1 })

-- Many at once, each with its own peer
client_symbols.answer = function(x) yue.sleep(0) return x end
local fibers = {}
for i = 1, 200 do fibers[i] = yue.spawn(function() return c.ask(i) end) end
for i = 1, 200 do check.that(fibers[i]:get() == 'asked ' .. i) end

-- A connection that is closed while its handler runs is still the handler's.
local result
symbols.outlive = function()
  yue.shield(function()
    yue.sleep(0.02)
    local ok, e = pcall(yue.peer().procs.answer, 1)
    result = { ok, e.type }
  end)
end
pcall(d.timed_outlive, 0.005)
yue.conn(d):close()
check.eventually(function() return result end)
check.that(not result[1] and (result[2] == 'ConnectionLostError' or result[2] == 'TimeoutError'), result[2])

-- A handler's identity ends with it: the error of its timer does not reach the next handler on the same fiber.
local late = yue.emitter()
symbols.bind = function() late:bind('x', function() end) return true end
check.that(c.bind())
symbols.who = function() return yue.fiber.current() end
symbols.who_text = function() local me = yue.fiber.current() symbols.kept = me return tostring(me) end
check.contains(c.who_text(), 'running')
check.that(symbols.kept:done(), 'the record of a handler is done when the handler is')
local first = symbols.kept
c.who_text()
check.that(first ~= symbols.kept, 'and the next one has its own')

listener:close()
check.done()
