-- Row 15: CONNECTIONS connections that make one call each. After the last it prints `connected`, and waits.

local platform = dofile(os.getenv 'FIGURES_LUA' .. '/platform.lua')
local remotes = {}
for connection = 1, platform.setting 'CONNECTIONS' do
  remotes[connection] = platform.connect(os.getenv 'PORT')
  if remotes[connection](connection) ~= connection then
    error 'a wrong answer'
  end
end
platform.say 'connected'
platform.sleep(600)
