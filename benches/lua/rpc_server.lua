-- Row 9: the server. It answers `echo(x)` with x until it is killed.

local platform = dofile(os.getenv 'FIGURES_LUA' .. '/platform.lua')
local port = platform.serve(os.getenv 'PORT', function(value)
  return value
end)
platform.say('ready', port)
