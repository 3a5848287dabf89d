--! stderr: the callback for 'bad' of emitter failed: RuntimeError
--! stderr: the callback for 'tick' of timer failed: RuntimeError
--! stderr: the callback of a fiber failed: RuntimeError
--! stderr: nobody waits for this
-- Emitters of the program's own: bind, unbind, wait, emit, close; what becomes of errors in callbacks.
local check = require 'check'
local e = yue.emitter()
local seen = {}
local function note(...) seen[#seen + 1] = { ... } end

check.equal(e:bind('a', note), note)
e:bind({ 'b', 'c' }, note)
e:emit('a', 1, nil, 3)
e:emit('b', 2)
e:emit('c')
e:emit('nothing bound')
check.eventually(function() return #seen == 3 end)
check.equal(seen[1], { 1, nil, 3 })
check.equal(seen[2], { 2 })

e:unbind({ 'a', 'b' }, note)
e:emit('a')
e:emit('c', 'still')
check.eventually(function() return #seen == 4 end)
check.equal(seen[4], { 'still' })
e:unbind('c')
e:emit('c')
yue.sleep(0.005)
check.equal(#seen, 4)

-- A callback may block, and does not keep the emitter.
local entered, left = 0, 0
e:bind('slow', function() entered = entered + 1 yue.sleep(0.01) left = left + 1 end)
e:emit('slow') e:emit('slow')
check.equal(entered, 0, 'emit returns before they run')
check.eventually(function() return left == 2 end)

-- wait
yue.spawn(function() yue.sleep(0.005) e:emit('w', 'x', nil, 'z') end)
check.equal({ e:wait('w') }, { true, 'x', nil, 'z' })
check.equal(e:wait('w', 0.005), false)
local waiters = {}
for i = 1, 20 do waiters[i] = yue.spawn(e.wait, e, 'w') end
yue.yield()
e:emit('w', 7)
for i = 1, 20 do check.equal({ waiters[i]:get() }, { true, 7 }) end
local cancelled = yue.spawn(e.wait, e, 'w')
yue.yield()
cancelled:cancel()
check.raises('CancelledError', nil, cancelled.get, cancelled)
check.that(e._waiting.w.first == nil, 'who gave up is forgotten')

-- The error of a callback goes to the fiber that bound it, if that waits in yue.try.
local caught = yue.try {
  function()
    e:bind('bad', function() error('from the callback') end)
    e:emit('bad')
    yue.sleep(60)
  end,
  catch = function(failure) return failure end,
}
check.contains(caught.msg, 'from the callback')
-- It does no longer: to the log.
e:unbind('bad')
e:bind('bad', function() error('nobody waits for this') end)
e:emit('bad')
yue.timer(0):bind('tick', function() error('nobody waits for this, either') end)
yue.spawn(function() end):on(function() error('nor for this') end)
yue.sleep(0.005)

-- closing
local closed_wait = yue.spawn(e.wait, e, 'w')
yue.yield()
e:close()
e:close()
check.equal(closed_wait:get(), false)
check.equal(e:wait('w'), false)
e:emit('a')
check.raises('RuntimeError', 'closed', e.bind, e, 'a', note)
e:unbind('a')

e = yue.emitter()
check.raises('ArgumentError', nil, e.bind, e, 'a')
check.raises('ArgumentError', nil, e.bind, e, 'a', 5)
check.raises('ArgumentError', nil, e.bind, e, nil, note)
check.raises('ArgumentError', nil, e.bind, e, 0 / 0, note)
check.raises('ArgumentError', nil, e.bind, e, { {} }, note)
check.raises('ArgumentError', nil, e.unbind, e)
check.raises('ArgumentError', nil, e.unbind, e, 'a', 5)
check.raises('ArgumentError', nil, e.wait, e)
check.raises('ArgumentError', nil, e.wait, e, 'a', 'x')
check.raises('ArgumentError', nil, e.emit, e)

-- What comes by itself has its events; a name that is misspelt would never come.
local timer = yue.timer(3600)
check.raises('ArgumentError', "no event tikc; it has: tick", timer.bind, timer, 'tikc', print)
check.raises('ArgumentError', 'no event tikc', timer.wait, timer, 'tikc', 0)
check.raises('ArgumentError', 'no event x', timer.bind, timer, { 'tick', 'x' }, print)
timer:close()
local signal = yue.signal(yue.const.SIGUSR2)
check.raises('ArgumentError', 'it has: signal', signal.bind, signal, 'SIGUSR2', print)
signal:close()
local connection = yue.socket('thread://nobody', { no_cache = true }, nil)
local events = 'it has: accept, close, full, open, timeout'
check.raises('ArgumentError', events, connection.bind, connection, 'closed', print)
connection:close()
check.done()
