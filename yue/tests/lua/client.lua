-- yue.client: runs until it returns a true value, raises, or is told to exit; closes what it opened; keeps its globals.
local check = require 'check'
local listener = yue.listen('tcp://127.0.0.1:0', {
  echo = function(...) return ... end,
  slow = function() yue.sleep(60) end,
  call_me = function(f) yue.spawn(function() yue.sleep(0.002) pcall(f) end) end,
})
local address = listener:addr()

check.equal({ yue.client(function() return 'result' end) }, { true, 'result' })
check.equal({ yue.client(function(cl) cl:exit(true, 5) end) }, { true, 5 })
check.equal({ yue.client(function(cl) cl:exit(false, 'why') cl:exit(true, 'too late') return 1 end) }, { false, 'why' })
local ok, e = yue.client(function() error('no') end)
check.that(not ok and e:is_a('RuntimeError'))
check.contains(e.msg, 'client.lua')

-- From a callback, while it waits for it, or for something else
ok, e = yue.client(function(cl)
  yue.timer(0.002):bind('tick', function() cl:exit(true, 'from a timer') end)
end)
check.equal({ ok, e }, { true, 'from a timer' })
check.equal({ yue.client(function(cl)
  yue.timer(0.002):bind('tick', function() cl:exit(true, 'from a timer') end)
  yue.open(address).slow()
end) }, { true, 'from a timer' })
check.equal({ yue.client(function(cl)
  yue.open(address, nil, {}).call_me(function() cl:exit(true, 'from the server') end)
end) }, { true, 'from the server' })
-- Nothing after it runs, wherever it is called, and nobody is told of a failure.
local after = 0
check.equal({ yue.client(function(cl)
  cl:exit(true, 1)
  after = after + 1
end) }, { true, 1 })
check.equal({ yue.client(function(cl)
  yue.timer(0.002):bind('tick', function() cl:exit(true, 2) after = after + 1 end)
end) }, { true, 2 })
check.equal({ yue.client(function(cl)
  yue.spawn(function() yue.sleep(0.002) cl:exit(true, 3) after = after + 1 end)
end) }, { true, 3 })
check.equal({ yue.client(function(cl)
  yue.spawn(function() return 'done' end):on(function(_, how) cl:exit(true, how) after = after + 1 end)
end) }, { true, 'done' })
check.equal({ yue.client(function(cl)
  pcall(cl.exit, cl, true, 'caught')
  yue.sleep(3600)
end) }, { true, 'caught' })
collectgarbage()
check.equal(after, 0)
-- An error in a future's callback reaches it, too.
ok, e = yue.client(function()
  yue.spawn(yue.sleep, 0.002):on(function() error('in a callback of a future') end)
  yue.sleep(3600)
end)
check.that(not ok)
check.contains(e.msg, 'in a callback of a future')
local caught
yue.try {
  function()
    yue.spawn(yue.sleep, 0.002):on(function() error('for yue.try') end)
    yue.sleep(3600)
  end,
  catch = function(raised) caught = raised end,
}
check.contains(caught.msg, 'for yue.try')
-- An error in a callback reaches it.
ok, e = yue.client(function() yue.timer(0.002):bind('tick', function() error('in a callback') end) end)
check.that(not ok)
check.contains(e.msg, 'in a callback')

-- The error of a fiber that it started ends it, too, unless somebody asks for the fiber's result.
ok, e = yue.client(function() yue.spawn(function() yue.sleep(0.002) error('in a fiber') end) end)
check.that(not ok)
check.contains(e.msg, 'in a fiber')
ok, e = yue.client(function()
  yue.spawn(error, 'early')
  yue.sleep(0.002)
  collectgarbage()
end)
check.that(not ok)
check.contains(e.msg, 'early')
check.equal({ yue.client(function()
  local fiber = yue.spawn(error, 'asked for')
  yue.sleep(0.002)
  return not fiber:sync() and 'seen'
end) }, { true, 'seen' })
check.equal({ yue.client(function(cl)
  yue.spawn(error, 'asked for'):on(function(fine) cl:exit(true, fine) end)
end) }, { true, false })

-- What it opened is closed: connections, listeners, timers, fibers; also what its callbacks and fibers opened.
local opened = {}
ok = yue.client(function(cl)
  opened.connection = yue.socket(address, { no_cache = true }, nil)
  opened.connection.procs.echo(1)
  opened.listener = yue.listen('tcp://127.0.0.1:0', {})
  opened.timer = yue.timer(0.001, 0.001)
  opened.fiber = yue.spawn(yue.sleep, 3600)
  opened.timer:bind('tick', function()
    opened.inner = opened.inner or yue.timer(3600)
    yue.emitter():bind('x', print)
    local helper = yue.emitter()
    helper:bind('go', function() opened.deep = opened.deep or yue.timer(3600) cl:exit(true) end)
    helper:emit('go')
  end)
end)
check.that(ok)
for _, name in ipairs { 'connection', 'listener', 'timer', 'inner', 'deep' } do
  check.that(opened[name].closed, name)
end
check.eventually(function() return opened.fiber:done() end)
check.eventually(function() return #listener:connections() <= 2 end)

-- What others use as well stays open.
local shared
yue.client(function() shared = yue.open(address) return shared.echo(true) end)
check.that(yue.conn(shared).closed, 'nobody else had it')
yue.client(function()
  shared = yue.open(address)
  yue.spawn(function() end):sync()
  check.main = shared
  return true
end)
local mine = yue.open(address)
yue.client(function() return yue.open(address).echo(true) end)
check.equal(mine.echo('still open'), 'still open')

-- Globals stay inside, for each run of the function, also for two at once.
local function with_globals()
  check.that(x_global == nil)
  x_global = (x_global or 0) + 1
  yue.sleep(0.002)
  local function inner() return x_global end
  return inner()
end
local first, second = yue.spawn(yue.client, with_globals), yue.spawn(yue.client, with_globals)
check.equal({ first:get() }, { true, 1 })
check.equal({ second:get() }, { true, 1 })
check.equal({ yue.client(with_globals) }, { true, 1 })
check.equal(rawget(_G, 'x_global'), nil)
check.equal({ pcall(with_globals) }, { true, 1 })
x_global = nil

-- Upvalues are shared, of course.
local up = 0
yue.client(function() up = up + 1 return true end)
check.equal(up, 1)

-- In each other, and in a handler
check.equal({ yue.client(function()
  local fine, result = yue.client(function() return 'inner' end)
  return fine and result .. ' in outer'
end) }, { true, 'inner in outer' })

-- A file
local path = os.tmpname()
local file = assert(io.open(path, 'w'))
file:write('local cl = ... ; g = 5 ; cl:exit(true, g)')
file:close()
check.equal({ yue.client(path) }, { true, 5 })
check.equal(rawget(_G, 'g'), nil)
os.remove(path)

-- Cancelled from outside
local f = yue.spawn(yue.client, function() yue.sleep(3600) end)
yue.yield()
f:cancel()
check.eventually(function() return f:done() end)
f:sync()

check.raises('ArgumentError', 'function or a file', yue.client)
check.raises('ArgumentError', 'function or a file', yue.client, 5)
check.raises('ArgumentError', 'cannot load', yue.client, '/no/such/file.lua')
listener:close()
check.done()
