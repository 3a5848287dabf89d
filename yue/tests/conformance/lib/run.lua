-- Runs behaviours over a transport: `yue run.lua TRANSPORT [BEHAVIOUR…]`, all behaviours by default.
--
-- Prints a line for each: `ok NAME`, `no NAME: REASON` or `FAILED NAME: ERROR`; `log TEXT` for what it may log; and
-- `done` at the end.
package.path = (debug.getinfo(1, 'S').source:match '^@(.*/)' or '') .. '?.lua;' .. package.path
local suite = require 'suite'
local endpoints = require 'endpoint'

--- Nothing takes a fraction of this.
local SECONDS_MAX = 60

local function transport_of(scheme)
  local schemes = {}
  for _, transport in ipairs(require 'transports') do
    if transport.scheme == scheme then return transport end
    schemes[#schemes + 1] = transport.scheme
  end
  error('usage: yue run.lua TRANSPORT [BEHAVIOUR…], where TRANSPORT is one of ' .. table.concat(schemes, ' '), 0)
end

local function run(behaviour, transport)
  local reason = suite.reason_against(behaviour, transport)
  if reason then return ('no %s: %s'):format(behaviour.name, reason) end
  for _, text in ipairs(behaviour.logs or {}) do print('log ' .. text) end
  local ended, ok, e = pcall(yue.timeout, SECONDS_MAX, yue.client, function()
    local endpoint = endpoints.new(behaviour, transport)
    behaviour.client(endpoint)
    endpoint.stop()
    return true
  end)
  if not ended then ok, e = false, ok end
  if ok then return 'ok ' .. behaviour.name end
  return ('FAILED %s: %s\n%s'):format(behaviour.name, tostring(e), type(e) == 'table' and e.bt or '')
end

local names = {}
for i = 2, #arg do names[#names + 1] = arg[i] end
if #names == 0 then
  for _, section in ipairs(suite.sections) do
    for i = 2, #section do names[#names + 1] = section[i] end
  end
end
local transport = transport_of(arg[1])
for _, name in ipairs(names) do
  local began = yue.util.time.now()
  print(run(suite.load(name), transport))
  if os.getenv 'YUE_CONFORMANCE_TIMES' then
    print(('time %s %.3f'):format(name, (yue.util.time.now() - began) / 1e6))
  end
end
print 'done'
