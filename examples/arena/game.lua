-- The game: one thread that owns the world, on however many loops the players are. It moves the world on 20 times a
-- second and tells the players. handlers.lua calls the functions at the end, server.lua the first one.
local yue = require 'yue'
local world = require 'world'

local SAVE_EVERY_S = 5
local FORGET_AFTER_S = 7 * 24 * 3600

-- The numbers of `math.random` are the same in each run otherwise. They are for places only: a token comes from
-- `yue.crypto`, so that nobody can guess it.
math.randomseed(tonumber(yue.crypto.hex(yue.crypto.random(6)), 16))
local state = world.new()
local tick = 0
-- Players by their token: { name, score, seen }, and while they play { id, connections }. Saved to a file, so scores
-- survive a restart.
local players, file = {}, nil
local loaded = yue.event()

-- All connections of players. A notification to a group is encoded once, and never waits.
local arena = yue.group 'arena'

local function step()
  local world = require 'world' -- the newest version, if it was reloaded
  tick = tick + 1
  for _, got in ipairs(world.step(state, 1 / world.TICKS_PER_S)) do
    local coin, player = state.coins[got.coin], state.players[got.id]
    arena.notify_coin(got.coin, coin.x, coin.y, got.id, player.score)
  end
  -- Old positions are worthless: a player that cannot be sent them within a tenth of a second does not get them.
  arena.timed_notify_positions(0.1, tick, world.positions(state))
end

local function save_players()
  local saved = {}
  for token, player in pairs(players) do
    local entity = state.players[player.id]
    if entity then player.score, player.seen = entity.score, yue.time() end
    if entity or player.score > 0 and yue.time() - player.seen < FORGET_AFTER_S then
      saved[token] = { name = player.name, score = player.score, seen = player.seen }
    else
      players[token] = nil -- forgotten
    end
  end
  -- Renaming replaces the file in one step: it is never half written.
  yue.fs.write(file .. '.new', yue.json.encode(yue.map(saved)))
  yue.fs.rename(file .. '.new', file)
end

local function save_now_and_then()
  yue.try {
    function()
      while true do
        yue.sleep(SAVE_EVERY_S)
        save_players()
      end
    end,
    -- The program ends: its fibers are cancelled.
    finally = save_players,
  }
end

yue.thread.current:import {
  --- Loads the players from a file, and starts the game. Each loop calls this; the first call does it.
  start = function(path)
    if file then
      loaded:wait()
      return
    end
    file = path
    if yue.fs.exists(file) then players = yue.json.decode(yue.fs.read(file)) end
    yue.timer(0, 1 / world.TICKS_PER_S):bind('tick', step)
    yue.spawn(save_now_and_then)
    loaded:set()
  end,

  --- A player comes, or comes back: its token is known. Returns its id and its token.
  enter = function(name, token)
    local player = players[token]
    if not player then
      token = yue.crypto.hex(yue.crypto.random(16))
      player = { score = 0 }
      players[token] = player
    end
    player.name, player.seen = name, yue.time()
    -- A second connection of the same player: the first one may not have noticed its end yet.
    player.connections = (player.connections or 0) + 1
    if not player.id then player.id = world.enter(state, name, player.score) end
    local entity = state.players[player.id]
    entity.name = name
    arena.notify_joined(player.id, name, entity.score)
    return { id = player.id, token = token }
  end,

  --- Sends a player the whole world. After it come the changes.
  look = function(token)
    local everybody = {}
    for id, entity in pairs(state.players) do
      everybody[#everybody + 1] = { id = id, name = entity.name, score = entity.score }
    end
    yue.group('player/' .. token).notify_world {
      id = players[token].id, token = token, players = everybody, coins = state.coins,
      width = world.WIDTH, height = world.HEIGHT, ticks_per_s = world.TICKS_PER_S,
    }
  end,

  leave = function(token)
    local player = players[token]
    player.connections = player.connections - 1
    if player.connections > 0 then return end
    player.score, player.seen = state.players[player.id].score, yue.time()
    world.leave(state, player.id)
    arena.notify_left(player.id)
    player.id = nil
  end,

  steer = function(id, dx, dy) require('world').steer(state, id, dx, dy) end,
}
