-- A notification to a group never waits: a member that reads nothing is closed, or its messages are dropped, as its
-- connection's `when_full` says, and the others get everything.
local check = require 'check'
local block = require('block').new()

local function slow_client()
  local server
  yue.thread.current:import {
    connect = function(address)
      server = yue.open(address, { no_cache = true, reconnect = false }, { tick = function() end })
      server.join('slow')
    end,
    hang = require('block').hang,
  }
end

local TICKS, CLIENTS = 60, 5
local blob = ('x'):rep(400 * 1000)

local function run(when_full)
  local g = yue.group('ticks/' .. when_full)
  local slow, closed, full
  local listener = yue.listen('tcp://127.0.0.1:0', { when_full = when_full }, {
    join = function(name)
      g:join(yue.peer(), name)
      if name == 'slow' then
        slow, full = yue.peer(), 0
        slow:bind('close', function(reason) closed = reason end)
        slow:bind('full', function() full = full + 1 end)
      end
    end,
  })
  local thread = yue.thread('slow-' .. when_full, slow_client)
  thread.procs.connect(listener:addr())
  local arrived, clients = {}, {}
  for i = 1, CLIENTS do
    arrived[i] = {}
    clients[i] = yue.open(listener:addr(), { no_cache = true }, {
      tick = function(n) table.insert(arrived[i], n) end,
    })
    clients[i].join('good')
  end
  check.equal(#g, CLIENTS + 1)
  block:begin(thread.procs)

  local longest, taken = 0, {}
  for n = 1, TICKS do
    local began = yue.util.time.now()
    taken[n] = g.notify_tick(n, blob)
    longest = math.max(longest, yue.util.time.now() - began)
    check.eventually(function()
      for i = 1, CLIENTS do
        if #arrived[i] < n then return false end
      end
      return true
    end)
  end
  -- Far more than a tick takes, and less than a wait for room.
  check.that(longest < 3e6, ('a tick took %.2f s'):format(longest / 1e6))
  check.equal(taken[1], CLIENTS + 1)
  check.equal(taken[TICKS], CLIENTS)
  if when_full == 'close' then
    check.eventually(function() return closed end)
    check.equal({ closed, full, #g }, { 'too slow', 0, CLIENTS })
  else
    check.equal({ closed, full, #g }, { nil, 1, CLIENTS + 1 })
    check.that(slow:stats().notifications_dropped > 0)
    -- It is asked in vain; the others answer.
    local list, answers = g.timed_tick(0.2, 0), 0
    for _, row in ipairs(list) do
      if row[2] then answers = answers + 1 else check.that(row[1] == slow) end
    end
    check.equal(answers, CLIENTS)
  end
  for i = 1, CLIENTS do
    for n = 1, TICKS do check.equal(arrived[i][n], n) end
  end
  block:release()
  for i = 1, CLIENTS do yue.conn(clients[i]):close() end
  listener:close()
  thread:close()
end

run('close')
run('drop')
block:close()
check.done()
