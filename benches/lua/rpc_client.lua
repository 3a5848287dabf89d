-- Row 9: the client. CONNECTIONS connections with IN_FLIGHT fibers each; a fiber calls, checks the answer, and calls
-- again. After WARM_UP seconds it prints `started`, after SECONDS more `result CALLS SECONDS`. Then it waits.

local platform = dofile(os.getenv 'FIGURES_LUA' .. '/platform.lua')
local port = os.getenv 'PORT'
local connections, in_flight = platform.setting 'CONNECTIONS', platform.setting 'IN_FLIGHT'
local calls = 0

local function caller(call, value)
  while true do
    if call(value) ~= value then
      error 'a wrong answer'
    end
    calls = calls + 1
  end
end

-- All connect before the first call, because connecting to a busy server takes long.
local remotes = {}
for connection = 1, connections do
  remotes[connection] = platform.connect(port)
end
for connection = 1, connections do
  for index = 1, in_flight do
    platform.spawn(caller, remotes[connection], (connection + index) % 100)
  end
end

platform.sleep(platform.setting 'WARM_UP')
local calls_before, started = calls, platform.now()
platform.say 'started'
platform.sleep(platform.setting 'SECONDS')
platform.say('result', calls - calls_before, string.format('%.9f', platform.now() - started))
platform.sleep(60)
