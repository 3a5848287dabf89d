-- The rules of the arena: players move, and collect coins. Plain functions on a state; nothing here knows of clients.
-- The game loop finds these functions anew at each tick, so `yue dev` changes the rules of a running game.
local world = {}

world.WIDTH, world.HEIGHT = 1600, 900
world.TICKS_PER_S = 20

-- Units per second. Change it while the game runs under `yue dev`.
world.SPEED = 180
local PLAYER_RADIUS, COIN_RADIUS = 14, 9
local COINS = 40

local function random_place()
  local margin = 2 * PLAYER_RADIUS
  return math.random(margin, world.WIDTH - margin), math.random(margin, world.HEIGHT - margin)
end

local function new_coin()
  local x, y = random_place()
  return { x = x, y = y }
end

function world.new()
  local coins = {}
  for i = 1, COINS do coins[i] = new_coin() end
  return { players = {}, coins = coins }
end

--- Adds a player and returns its id: the smallest free number.
function world.enter(state, name, score)
  local id = 1
  while state.players[id] do id = id + 1 end
  local x, y = random_place()
  state.players[id] = { name = name, score = score, x = x, y = y, dx = 0, dy = 0 }
  return id
end

function world.leave(state, id)
  state.players[id] = nil
end

--- A number from -1 to 1, whatever a client sends.
local function direction(value)
  value = tonumber(value) or 0
  if value ~= value then return 0 end -- NaN
  return math.max(-1, math.min(1, value))
end

--- Sets where a player goes. Clients send a direction, never a position: the server alone moves the players.
function world.steer(state, id, dx, dy)
  local player = state.players[id]
  if not player then return end
  dx, dy = direction(dx), direction(dy)
  local length = math.max(1, math.sqrt(dx * dx + dy * dy)) -- diagonals are not faster
  player.dx, player.dy = dx / length, dy / length
end

local function clamp(value, margin, max)
  return math.max(margin, math.min(max - margin, value))
end

local function is_near(player, coin)
  local dx, dy, reach = player.x - coin.x, player.y - coin.y, PLAYER_RADIUS + COIN_RADIUS
  return dx * dx + dy * dy < reach * reach
end

--- Moves the world on by a tick of so many seconds. Returns the coins that were collected: `{ coin, id }` each.
function world.step(state, seconds)
  local collected = {}
  for id, player in pairs(state.players) do
    player.x = clamp(player.x + player.dx * world.SPEED * seconds, PLAYER_RADIUS, world.WIDTH)
    player.y = clamp(player.y + player.dy * world.SPEED * seconds, PLAYER_RADIUS, world.HEIGHT)
    for i, coin in ipairs(state.coins) do
      if is_near(player, coin) then
        player.score = player.score + 1
        state.coins[i] = new_coin()
        collected[#collected + 1] = { coin = i, id = id }
      end
    end
  end
  return collected
end

--- All positions in one flat list: id, x, y, id, x, y, … In whole units they take few bytes.
function world.positions(state)
  local list = {}
  for id, player in pairs(state.players) do
    local n = #list
    list[n + 1], list[n + 2], list[n + 3] = id, math.floor(player.x + 0.5), math.floor(player.y + 0.5)
  end
  return list
end

return world
