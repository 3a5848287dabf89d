-- Row 10: IN_FLIGHT fibers call another thread of the same process; otherwise like rpc_client.lua.

local platform = dofile(os.getenv 'FIGURES_LUA' .. '/platform.lua')
local yue = require 'yue'
local calls = 0

-- The function has no upvalues: only its code is sent to the other thread.
local thread = yue.thread('echoer', function()
  local yue = require 'yue'
  yue.thread.current:import {
    echo = function(value)
      return value
    end,
  }
end)
local remote = yue.open 'thread://echoer'

local function caller(value)
  local echo = remote.echo
  while true do
    if echo(value) ~= value then
      error 'a wrong answer'
    end
    calls = calls + 1
  end
end

for index = 1, platform.setting 'IN_FLIGHT' do
  platform.spawn(caller, index % 100)
end

platform.sleep(platform.setting 'WARM_UP')
local calls_before, started = calls, platform.now()
platform.say 'started'
platform.sleep(platform.setting 'SECONDS')
platform.say('result', calls - calls_before, string.format('%.9f', platform.now() - started))
platform.sleep(60)
thread:close()
