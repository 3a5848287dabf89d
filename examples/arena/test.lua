-- Tests the arena: the rules alone, then the server on two loops with players on both, and a restart of the server
-- under them. Run it with:  yue test.lua
local yue = require 'yue'
local world = require 'world'

local folder = arg[0]:match '.*/' or ''
local file = yue.fs.temp() .. '/players.json'

--- Waits until something holds.
local function eventually(what, condition)
  local deadline = yue.now() + 20
  while not condition() do
    assert(yue.now() < deadline, what .. ' did not happen')
    yue.sleep(0.01)
  end
end

local function test_rules()
  local state = world.new()
  local id = world.enter(state, 'frodo', 7)
  local player = state.players[id]
  player.x, player.y = 800, 450
  for i in ipairs(state.coins) do state.coins[i] = { x = 100, y = 100 } end

  world.steer(state, id, 1, 1)
  assert(#world.step(state, 0.05) == 0)
  local dx, dy = player.x - 800, player.y - 450
  local step = world.SPEED * 0.05
  assert(dx > 0 and math.abs(math.sqrt(dx * dx + dy * dy) - step) < 1e-6, 'diagonals are as fast as any direction')

  -- Nothing that a client sends makes it faster, or takes it out of the arena.
  for _, bad in ipairs { 0 / 0, math.huge, -math.huge, 1e300, '1', {}, false } do
    world.steer(state, id, bad, bad)
    local before = { x = player.x, y = player.y }
    world.step(state, 0.05)
    assert(math.abs(player.x - before.x) < step + 0.1 and math.abs(player.y - before.y) < step + 0.1)
  end
  world.steer(state, id, -1, 0)
  for _ = 1, 1000 do world.step(state, 0.05) end
  assert(player.x > 0 and player.x < 20)

  player.x, player.y, player.dx = 800, 450, 0
  state.coins[3] = { x = 805, y = 450 }
  local collected = world.step(state, 0.05)
  assert(collected[1].coin == 3 and collected[1].id == id and player.score == 8)

  assert(world.enter(state, 'sam', 0) == 2)
  world.leave(state, id)
  assert(world.enter(state, 'merry', 0) == id, 'ids are used again')
end

local function start_server(address)
  -- /proc/self/exe is the running program: this same yue.
  local server = yue.process.spawn {
    '/proc/self/exe', '-c', '2', folder .. 'server.lua', address, 'players=' .. file,
  }
  return server, server:line():match '^serving at (http://.*)'
end

--- A player, with all that its page would know.
local function join(url, name)
  local player = { worlds = 0 }
  player.server = yue.open(url:gsub('^http', 'ws') .. '/rpc', { no_cache = true, retry = true }, {
    login = function()
      player.players = nil -- what comes before the world is in it already
      return { name = name, token = player.token }
    end,
    world = function(world)
      player.worlds, player.id, player.token, player.coins = player.worlds + 1, world.id, world.token, world.coins
      player.players = {}
      for _, other in ipairs(world.players) do player.players[other.id] = other end
    end,
    positions = function(tick, list)
      player.tick = tick
      for i = 1, #list, 3 do
        if list[i] == player.id then player.x, player.y = list[i + 1], list[i + 2] end
      end
    end,
    coin = function(index, x, y, id, score)
      if not player.players then return end
      player.coins[index] = { x = x, y = y }
      player.players[id].score = score
    end,
    joined = function(id, new_name, score)
      if player.players then player.players[id] = { id = id, name = new_name, score = score } end
    end,
    left = function(id)
      if player.players then player.players[id] = nil end
    end,
  })
  player.server.ping()
  return player
end

local function count(list)
  local n = 0
  for _ in pairs(list) do n = n + 1 end
  return n
end

--- Walks to the nearest coin, as a human would, until the player has one more.
local function collect_a_coin(player)
  local before = player.players[player.id].score
  eventually('a coin', function()
    local nearest, distance = nil, math.huge
    for _, coin in pairs(player.coins) do
      local d = math.abs(coin.x - player.x) + math.abs(coin.y - player.y)
      if d < distance then nearest, distance = coin, d end
    end
    player.server.notify_steer((nearest.x - player.x) / 20, (nearest.y - player.y) / 20)
    yue.sleep(0.03)
    return player.players[player.id].score > before
  end)
  player.server.notify_steer(0, 0)
end

local function test_game(server, url)
  assert(yue.http.get(url .. '/').body:find '<title>')
  assert(yue.http.get(url .. '/yue.js').headers['content-type'] == 'text/javascript')
  -- Enough players for both loops: the kernel chooses the loop of each.
  local players = {}
  for i = 1, 12 do players[i] = join(url, 'player ' .. i) end
  for _, player in ipairs(players) do
    eventually('everybody sees everybody', function() return count(player.players) == 12 and player.x end)
  end

  -- A coin that one player collects is seen by all.
  local first = players[1]
  collect_a_coin(first)
  for _, player in ipairs(players) do
    eventually('the score', function()
      return player.players[first.id].score == first.players[first.id].score
    end)
  end

  -- About 20 ticks a second.
  local tick, began = first.tick, yue.now()
  eventually('ten ticks', function() return first.tick >= tick + 10 end)
  assert(yue.now() - began > 0.4, 'ticks come too fast')

  -- Bad names are refused.
  local ok, e = pcall(join, url, ('x'):rep(17))
  assert(not ok, 'a long name')
  assert(tostring(e):find 'a name has 1 to 16 characters', tostring(e))

  yue.conn(players[12].server):close()
  eventually('a player leaves', function() return count(first.players) == 11 end)
  return first
end

local function test_restart(server, url, player)
  local score = player.players[player.id].score
  server:kill(yue.const.SIGTERM)
  server:wait()
  local again = start_server(url:gsub('http', 'tcp'))
  return again, function()
    -- The clients connect again by themselves, and get their scores back.
    eventually('the world after the restart', function() return player.worlds == 2 end)
    -- A coin may have appeared where the player stands.
    assert(player.players[player.id].score >= score, 'the score is kept')
    collect_a_coin(player)
  end
end

test_rules()
local server, url = start_server 'tcp://127.0.0.1:0'
yue.try {
  function()
    local player = test_game(server, url)
    local check
    server, check = test_restart(server, url, player)
    check()
  end,
  -- The server is ended in any case.
  finally = function() server:kill() end,
}
print 'the arena works'
