-- A chat with rooms, names, history and presence. Run it with:  yue server.lua
-- and open http://127.0.0.1:8080 in two windows. `yue -c 2 server.lua` serves on two loops; nothing else changes.
local yue = require 'yue'

local folder = arg[0]:match '.*/' or ''
local page = folder .. 'page'

-- Names and history are shared by all loops, so they live in one thread, which the handlers call. With `-c N` this
-- script runs once for each loop; the first one starts the thread.
local is_first = yue.thread.current.index == 1
if is_first then yue.thread('rooms', function() end, nil, folder .. 'rooms.lua') end

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
  -- A member that does not read loses lines, and nobody waits for it. A member that floods is disconnected.
  ['WS /rpc'] = yue.http.websocket({
    when_full = 'drop', rate = { calls = 10, burst = 50 }, origins = origins,
  }, folder .. 'handlers.lua'),
})

if is_first then print('serving at ' .. server:url()) end
