-- Character making: a function of the server that asks the page questions, in the middle of the page's call.
-- Run it with:  yue server.lua  and open http://127.0.0.1:8080
local yue = require 'yue'

local folder = arg[0]:match '.*/' or ''
local page = folder .. 'page'

-- `yue server.lua host=0.0.0.0 port=80` serves other machines, too.
local address = yue.args[1] or ('tcp://%s:%s'):format(yue.args.host or '127.0.0.1', yue.args.port or 8080)
local server = yue.http.serve(address, {
  ['GET /*'] = yue.http.files(page),
  -- The files of a folder do not include symbolic links, and in yue's own repository the client library is one.
  ['GET /yue.js'] = function()
    return 200, yue.fs.read(page .. '/yue.js'), { ['content-type'] = 'text/javascript' }
  end,
  ['WS /rpc'] = folder .. 'handlers.lua',
})

if yue.thread.current.index == 1 then print('serving at ' .. server:url()) end
