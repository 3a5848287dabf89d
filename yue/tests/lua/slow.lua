-- A game's tick never waits for one player: of a hundred clients one stops reading, and every other one's ticks arrive
-- in time. Over tcp and unix sockets.
local check = require 'check'

-- The slow one: a thread that connects and then hangs, so that its loop reads nothing until it is told to go on.
local function slow_client()
  local server
  yue.thread.current:import {
    connect = function(address)
      server = yue.open(address, { no_cache = true, reconnect = false }, { tick = function() end })
      server.join('slow')
    end,
    -- Says that it begins, and waits for the file without letting the loop run.
    hang = function(path)
      local ffi = require 'ffi'
      ffi.cdef 'int access(const char *, int); int usleep(unsigned);'
      assert(io.open(path .. '.begun', 'w')):close()
      for _ = 1, 60000 do
        if ffi.C.access(path, 0) == 0 then return end
        ffi.C.usleep(1000)
      end
    end,
  }
end

local TICKS, CLIENTS = 40, 99
local blob = ('x'):rep(400 * 1000)
local flag = os.tmpname()

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
  os.remove(flag)
  thread.procs.notify_hang(flag)
  check.eventually(function() return os.remove(flag .. '.begun') end)

  -- Each tick takes the time that its own work takes. The blob is for the slow one only, to fill the kernel's buffers.
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
  check.that(dropped > 0, 'the slow one was not slow')
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
  assert(io.open(flag, 'w')):close()
  for i = 1, CLIENTS do yue.conn(clients[i]):close() end
  listener:close()
  thread:close()
end

run('tcp://127.0.0.1:0', 'close')
local path = os.tmpname()
os.remove(path)
run('unix://' .. path, 'drop')
os.remove(flag)
check.done()
