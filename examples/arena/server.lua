-- An arena: one world, moved by the server 20 times a second. Run it with:  yue server.lua
-- and open http://127.0.0.1:8080 in two windows. `yue bots.lua` adds 200 players.
-- `yue -c 2 server.lua` serves on two loops; nothing else changes.
-- Scores are kept in players.json, beside this file: `yue server.lua ADDRESS players=FILE` chooses another file.
local yue = require 'yue'

local folder = arg[0]:match '.*/' or ''
local page = folder .. 'page'

-- The world lives in a thread of its own. With `-c N` this script runs once for each loop; the first one starts it.
local is_first = yue.thread.current.index == 1
if is_first then yue.thread('game', folder .. 'game.lua') end
-- All loops wait until it has loaded the players. `retry` waits for the thread itself, which the first loop starts.
yue.open('thread://game', { retry = true }, nil).start(yue.args.players or folder .. 'players.json')

-- `yue server.lua host=0.0.0.0 port=80` serves other machines, too.
local address = yue.args[1] or ('tcp://%s:%s'):format(yue.args.host or '127.0.0.1', yue.args.port or 8080)
-- Under a name of its own, the server has to know it: `yue server.lua host=0.0.0.0 origin=https://game.example`.
local origins = yue.args.origin and { yue.args.origin }
local server = yue.http.serve(address, {
  ['GET /*'] = yue.http.files(page),
  -- The files of a folder do not include symbolic links, and in yue's own repository the client library is one.
  ['GET /yue.js'] = function()
    return 200, yue.fs.read(page .. '/yue.js'), { ['content-type'] = 'text/javascript' }
  end,
  -- A player that reads too slowly for the coins is disconnected, and its page connects again.
  ['WS /rpc'] = yue.http.websocket({ rate = { calls = 40, burst = 80 }, origins = origins }, folder .. 'handlers.lua'),
})

if is_first then print('serving at ' .. server:url()) end
