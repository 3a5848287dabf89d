-- A game's tick never waits for one player: one of a hundred clients stops reading, and the ticks of all others arrive
-- in time. Over tcp and unix sockets.
local check = require 'check'
local block = require('block').new()

-- The slow client: a thread that connects and then blocks its loop, so that it reads nothing until it is released.
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

local TICKS, CLIENTS = 40, 99
local blob = ('x'):rep(400 * 1000)

local function run(address, when_full)
  local players, closed, full, dropped = {}, nil, 0, 0
  local listener = yue.listen(address, { when_full = when_full }, {
    join = function(name)
      local player = yue.peer()
      players[#players + 1] = { name = name, conn = player }
      if name == 'slow' then
        player:bind('close', function(reason) closed = reason end)
        player:bind('full', function() full = full + 1 end)
      end
    end,
  })
  local thread = yue.thread('slow-' .. when_full, slow_client)
  thread.procs.connect(listener:addr())

  local arrived, clients = {}, {}
  for i = 1, CLIENTS do
    arrived[i] = {}
    local server = yue.open(listener:addr(), { no_cache = true }, {
      tick = function(n) table.insert(arrived[i], { n, yue.util.time.now() }) end,
    })
    server.join('good')
    clients[i] = server
  end
  block:begin(thread.procs)

  -- Each tick takes the time that its own work takes. Only the slow client gets the blob, to fill the kernel's buffers.
  local sent, longest = {}, 0
  for n = 1, TICKS do
    local began = yue.util.time.now()
    sent[n] = began
    for _, player in ipairs(players) do
      local taken = player.conn.procs.notify_tick(n, player.name == 'slow' and blob or nil)
      if player.name == 'slow' and not taken then dropped = dropped + 1 end
      if player.name ~= 'slow' then check.that(taken, 'a player who reads gets every tick') end
    end
    longest = math.max(longest, yue.util.time.now() - began)
    yue.sleep(0.02)
  end
  -- Three seconds are far more than a tick takes, and less than a wait for room.
  check.that(longest < 3e6, ('a tick took %.2f s'):format(longest / 1e6))
  check.that(dropped > 0, 'the slow client was not slow')
  for i = 1, CLIENTS do
    check.eventually(function() return #arrived[i] == TICKS end)
    for n = 1, TICKS do
      local late = arrived[i][n][2] - sent[n]
      check.that(arrived[i][n][1] == n and late < 3e6, ('tick %d came %.2f s late'):format(n, late / 1e6))
    end
  end
  if when_full == 'close' then
    check.eventually(function() return closed end)
    check.equal(closed, 'too slow')
    check.equal(full, 0)
  else
    check.equal(closed, nil)
    check.equal(full, 1)
    for _, player in ipairs(players) do
      local stats = player.conn:stats()
      local is_slow = player.name == 'slow'
      check.equal(stats.notifications_dropped, is_slow and dropped or 0)
      if is_slow then check.that(stats.queued_bytes > 8 * 2 ^ 20 and stats.queued_bytes < 9 * 2 ^ 20) end
    end
  end
  block:release()
  for i = 1, CLIENTS do yue.conn(clients[i]):close() end
  listener:close()
  thread:close()
end

run('tcp://127.0.0.1:0', 'close')
local path = os.tmpname()
os.remove(path)
run('unix://' .. path, 'drop')
block:close()
check.done()
