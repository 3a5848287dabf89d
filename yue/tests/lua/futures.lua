--! stderr: the handler of fail failed, called by tcp://127.0.0.1:
-- Futures: waiting for them, giving them up, all and any.
local check = require 'check'
local c, listener = check.pair {
  echo = function(...) return ... end,
  wait = function(seconds) yue.sleep(seconds) return 'waited' end,
  fail = function() error('no') end,
}

local f = c.async_echo(1, nil, 3)
check.equal({ f:sync() }, { true, 1, nil, 3 })
check.equal(select('#', f:sync()), 4)
check.equal({ f:get() }, { 1, nil, 3 })
check.that(f:done())
check.equal(tostring(f), 'future: done')

f = c.async_wait(0.01)
check.that(not f:done())
check.equal(tostring(f), 'future: pending')
check.equal(f:get(), 'waited')

f = c.async_fail()
local ok, e = f:sync()
check.that(not ok and e:is_a('RuntimeError'))
check.raises('RuntimeError', 'no', f.get, f)
check.equal(tostring(f), 'future: failed')
check.raises('NoMethodError', nil, function() c.async_missing():get() end)
check.raises('TimeoutError', nil, function() c.timed_async_wait(0.01, 60):get() end)
check.raises('ArgumentError', nil, function() c.async_echo(coroutine.create(print)):get() end)

-- on: called once, done or not, with what came of it; its error is only told.
local seen = {}
f = c.async_echo('a', 'b')
check.equal(f:on(function(...) seen[1] = { ... } end), f)
check.eventually(function() return seen[1] end)
check.equal(seen[1], { true, 'a', 'b' })
f:on(function(...) seen[2] = { ... } end)
check.eventually(function() return seen[2] end)
c.async_fail():on(function(fine, failure) seen[3] = { fine, failure.type } end)
check.eventually(function() return seen[3] end)
check.equal(seen[3], { false, 'RuntimeError' })
check.raises('ArgumentError', 'function', f.on, f, 5)

-- Many wait for one.
f = c.async_wait(0.01)
local waiters = {}
for i = 1, 50 do waiters[i] = yue.spawn(function() return f:get() end) end
for i = 1, 50 do check.that(waiters[i]:get() == 'waited') end

-- cancel: done at once; the peer's handler keeps running.
local handler_end
listener.namespace.long = function()
  yue.sleep(0.05)
  handler_end = 'done'
end
f = c.async_long()
c.echo()
check.that(f:cancel())
check.that(f:done() and not f:cancel())
check.raises('CancelledError', nil, f.get, f)
check.eventually(function() return handler_end end)
check.equal(handler_end, 'done')

-- all
check.equal(yue.all { c.async_echo(1), c.async_echo(2), yue.spawn(function() return 3 end) }, { 1, 2, 3 })
check.equal(yue.all {}, {})
local many = {}
for i = 1, 2000 do many[i] = yue.spawn(function() yue.sleep(0) return i end) end
local results = yue.all(many)
check.equal(#results, 2000)
check.equal(results[1234], 1234)
-- The first that fails is raised while others are not done.
local endless = yue.spawn(yue.sleep, 3600)
check.raises('RuntimeError', 'no', yue.all, { endless, c.async_fail() })
check.that(not endless:done())

-- any, again and again with one that is never done: nothing is left behind in it.
for i = 1, 100 do
  local at, value = yue.any { endless, c.async_echo(i) }
  check.that(at == 2 and value == i)
end
check.that(endless.first == nil, 'nobody waits for it any more')
check.raises('RuntimeError', 'no', yue.any, { endless, c.async_fail() })
check.equal(yue.any { c.async_wait(0.001) }, 1)

-- Those who give up waiting leave nothing behind either.
for _ = 1, 20 do check.raises('TimeoutError', nil, yue.timeout, 0.001, endless.sync, endless) end
check.raises('TimeoutError', nil, yue.timeout, 0.001, yue.all, { endless, endless })
check.that(endless.first == nil)
endless:cancel()
check.raises('CancelledError', nil, endless.get, endless)

-- Values that are not lists of futures
for _, wrong in ipairs { 5, 'x', { 1 }, { {} }, f, { c }, { c.echo } } do
  check.raises('ArgumentError', 'yue.all', yue.all, wrong)
  check.raises('ArgumentError', 'yue.any', yue.any, wrong)
end
check.raises('ArgumentError', 'at least one', yue.any, {})
check.raises('ArgumentError', nil, yue.all)

listener:close()
check.done()
