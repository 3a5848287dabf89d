-- Fills the arena with bots: players like any other, over the network. Run it with:  yue bots.lua [ADDRESS] [COUNT]
-- `yue bots.lua port=8081 50` finds a server that has another port.
local yue = require 'yue'

local words = { unpack(yue.args) }
local address = not tonumber(words[1]) and table.remove(words, 1)
  or ('ws://%s:%s/rpc'):format(yue.args.host or '127.0.0.1', yue.args.port or 8080)
local count = tonumber(words[1] or 200)
local has_played = false

math.randomseed(tonumber(yue.crypto.hex(yue.crypto.random(6)), 16)) -- otherwise each run has the same numbers

local function bot(number)
  local token -- of the first login: a bot that reconnects keeps its score
  local server = yue.open(address, { no_cache = true, retry = true }, {
    login = function()
      has_played = true
      return { name = 'bot ' .. number, token = token }
    end,
    world = function(world) token = world.token end,
    -- A bot does not look where it goes.
    positions = function() end,
    coin = function() end,
    joined = function() end,
    left = function() end,
  })
  while true do
    local angle = math.random() * 2 * math.pi
    server.notify_steer(math.cos(angle), math.sin(angle))
    yue.sleep(0.5 + math.random())
  end
end

for number = 1, count do yue.spawn(bot, number) end
print(('%d bots play at %s; Ctrl-C ends them'):format(count, address))
yue.sleep(2)
if not has_played then print 'No server has answered yet. The bots keep trying.' end
