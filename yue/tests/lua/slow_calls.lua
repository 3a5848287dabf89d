-- Messages to a peer that does not keep up: notify_, async_, timed_notify_ and latest never wait.
local check = require 'check'
local block = require('block').new()

-- A thread that can be kept from reading, with a socket to us.
local function thread_code()
  local noted, server = {}, nil
  yue.thread.current:import {
    connect = function(address)
      server = yue.open(address, { no_cache = true }, {
        note = function(...) noted[#noted + 1] = { ... } end,
        echo = function(...) return ... end,
      })
      server.join()
    end,
    hang = require('block').hang,
    noted = function()
      local result = noted
      noted = {}
      return result
    end,
  }
end

local conn
local address = 'unix://' .. os.tmpname()
os.remove(address:sub(8))
local options = { output_high = 100000, output_max = 400000, when_full = 'drop' }
local listener = yue.listen(address, options, { join = function() conn = yue.peer() end })
local thread = yue.thread('reader', thread_code)
thread.procs.connect(address)
local c = conn.procs
check.equal(conn:stats().queued_bytes, 0)

-- While there is room, latest is a notification.
check.equal(conn:latest('x', 'note', 'at once', nil, 3), true)
check.eventually(function() return #thread.procs.noted() == 1 end)

local function at_once(what, f, ...)
  local began = yue.util.time.now()
  local result = { f(...) }
  local took = (yue.util.time.now() - began) / 1e6
  check.that(took < 1, ('%s took %.2f s'):format(what, took))
  return unpack(result)
end

block:begin(thread.procs)
local blob = ('x'):rep(50000)
local full = 0
conn:bind('full', function() full = full + 1 end)
-- The kernel takes some of it, and then no more.
local refused = 0
repeat
  local more = 0
  while at_once('notify_', c.notify_note, blob) do more = more + 1 end
  refused = refused + 1
  yue.sleep(0.02)
until more == 0
check.equal(at_once('notify_', c.notify_note, blob), false)
check.equal({ at_once('async_notify_', c.async_notify_note, blob):sync() }, { true, false })
local failed = at_once('async_', c.async_echo, blob)
local _, e = failed:sync()
check.that(e:is_a('QueueFullError') and e:is_a('ServerError') and e.retryable, tostring(e))
check.equal(e.code, -302)
check.that(full >= 1 and full <= refused, full .. ' events')

-- A timed one waits for room, but not longer than its time.
check.equal(at_once('timed_notify_', c.timed_notify_note, 0.01, 'too late'), true)
check.equal(at_once('timed_notify_', c.timed_notify_note, 60, 'in time'), true)

-- Of each key the latest is kept, as it is when it is sent.
local position = { 1, 1 }
for i = 1, 100 do check.equal(at_once('latest', conn.latest, conn, 'ann', 'note', 'ann', i), true) end
conn:latest('bob', 'note', 'bob', position)
conn:latest(7, 'note', 'seven')
position[1] = 5
local taken = 0
for i = 1, 5000 do taken = taken + (conn:latest(i, 'note', 'many') and 1 or 0) end
check.equal(taken, 4096 - 2, 'there is an end of keys')
check.equal(conn:latest('ann', 'note', 'ann', 101), true)
local stats = conn:stats()
check.equal(stats.notifications_dropped, refused + 2 + 5000 - taken)
check.that(stats.queued_bytes > 400000 and stats.queued_bytes < 500000, stats.queued_bytes)

-- It reads again, after the time of the first timed one.
yue.sleep(0.05)
block:release()
check.eventually(function() return conn:stats().queued_bytes == 0 end)
local noted, seen = {}, {}
check.eventually(function()
  for _, note in ipairs(thread.procs.noted()) do
    noted[#noted + 1] = note
    if note[1] ~= blob then seen[note[1]] = (seen[note[1]] or 0) + 1 end
  end
  return seen.many == 4094 and seen['in time'] and seen.ann
end)
check.equal(seen['too late'], nil)
check.equal({ seen.ann, seen.bob, seen.seven }, { 1, 1, nil }, 'seven was replaced')
for _, note in ipairs(noted) do
  if note[1] == 'ann' then check.equal(note[2], 101) end
  if note[1] == 'bob' then check.equal(note[2], { 5, 1 }) end
end
check.equal(conn:stats().notifications_late, 1)

-- A mistake in a call of latest is raised at once.
for _, key in ipairs { {}, true, print, 0 / 0, ('k'):rep(257) } do
  check.raises('ArgumentError', 'the key is', conn.latest, conn, key, 'note')
end
check.raises('ArgumentError', 'the key is', conn.latest, conn, nil, 'note')
check.raises('ArgumentError', 'name of a procedure', conn.latest, conn, 'x', 5)
check.raises('ArgumentError', 'cannot', conn.latest, conn, 'x', 'note', coroutine.create(print))

-- Over thread:// no connection is closed: the program gets an error.
local t = yue.open('thread://reader', { no_cache = true, output_high = 100000, output_max = 200000 }, nil)
check.equal(type(t.noted()), 'table')
block:begin(t)
check.raises('QueueFullError', 'wait to be sent', function()
  for _ = 1, 100 do check.equal(t.notify_noted(blob), true) end
end)
block:release()
check.equal(type(t.noted()), 'table', 'the connection still works')

-- A connection that has ended takes nothing.
conn:close()
check.equal({ conn:latest('x', 'note'), c.notify_note() }, { false, false })

-- An opened connection keeps the latest until it is up; if it cannot be made, the message is dropped.
local nobody = yue.socket('unix:///no/such/file', nil, {})
check.equal(nobody:latest('x', 'f'), true)
check.eventually(function() return nobody:stats().notifications_dropped == 1 end)
local heard
local other = yue.listen('tcp://127.0.0.1:0', { f = function(x) heard = x end })
local opened = yue.socket(other:addr(), nil, {})
check.equal({ opened:latest('x', 'f', 1), opened:latest('x', 'f', 2) }, { true, true })
check.eventually(function() return heard == 2 end)
check.equal(opened:stats().notifications, 1)

-- The options
local open = yue.open
for _, wrong in ipairs { 'opne', 5, true, {} } do
  check.raises('ArgumentError', "when_full is 'close' or 'drop', not", open, other:addr(), { when_full = wrong }, {})
end
for _, wrong in ipairs {
  5, 'x', {}, { burst = 5 }, { calls = 0 }, { calls = 'x' }, { calls = 1, burst = 0 }, { calls = 1, x = 1 },
} do
  check.raises('ArgumentError', 'the option rate is a table', open, other:addr(), { rate = wrong }, {})
end
local crossed = { output_high = 9, output_max = 8 }
check.raises('ArgumentError', 'output_max is at least output_high', open, other:addr(), crossed, {})

-- A listener limits how often each connection calls.
local limited = yue.listen('tcp://127.0.0.1:0', { rate = { calls = 20, burst = 5 } }, { f = function() return 'f' end })
local eager = yue.socket(limited:addr(), { reconnect = false }, {})
local reason
eager:bind('close', function(why) reason = why end)
for _ = 1, 5 do check.equal(eager.procs.f(), 'f') end
local busy = check.raises('ServerBusyError', '20 calls a second', function() for _ = 1, 5 do eager.procs.f() end end)
check.that(busy.retryable)
yue.sleep(0.1)
check.equal(eager.procs.f(), 'f')
for _ = 1, 10000 do
  if reason then break end
  local ok, why = pcall(eager.procs.f)
  check.that(ok or why:is_a('ServerBusyError') or why.msg:find 'too many calls', why)
end
check.equal(reason, 'closed by the peer: too many calls')
check.equal(yue.open(limited:addr(), { no_cache = true }, nil).f(), 'f')

limited:close()
other:close()
listener:close()
thread:close()
block:close()
check.done()
