-- Code is exchanged 200 times, some versions of it broken, while clients call all the time: no call fails, none sees
-- two versions, handlers that take long end in their own, and the state stays.
local check = require 'check'
local folder = yue.fs.temp()
package.path = folder .. '/?.lua;' .. package.path
local CLIENTS, RELOADS = 16, 200

local function write(version)
  yue.fs.write(folder .. '/rules.lua', ('return { version = %d }'):format(version))
  yue.fs.write(folder .. '/game.lua', ([[
    local rules = require 'rules'
    assert(rules.version == %d)
    local state = yue.state('game', function() return { calls = 0 } end)
    local function count() state.calls = state.calls + 1 end
    return { version = %d, rules = rules, count = count }
  ]]):format(version, version))
  yue.fs.write(folder .. '/handlers.lua', ([[
    local game = require 'game'
    local function look()
      return %d, game.version, game.rules.version, require 'game'.version, require 'rules'.version
    end
    function quick()
      game.count()
      return look()
    end
    function slow(seconds)
      game.count()
      local before = { look() }
      yue.sleep(seconds)
      local fiber = yue.spawn(function() return require 'game'.version end)
      local after = { look() }
      after[#after + 1] = fiber:get()
      for i = 1, #after do before[#before + 1] = after[i] end
      return unpack(before)
    end]]):format(version))
end

write(1)
local state = yue.state('game', function() return { calls = 0 } end)
local listener = yue.listen('tcp://127.0.0.1:0', folder .. '/handlers.lua')
local calls, stop, newest = 0, false, 1
local function same(...)
  local first = (...)
  for i = 2, select('#', ...) do
    if select(i, ...) ~= first then error('a mix of versions: ' .. table.concat({ ... }, ' ')) end
  end
  return first
end
local clients = {}
for i = 1, CLIENTS do
  clients[i] = yue.spawn(function()
    local server = yue.open(listener:addr(), { no_cache = true }, nil)
    local last = 0
    while not stop do
      local version
      if i % 4 == 0 then
        version = same(server.slow(0.001 * i))
      else
        local least = newest
        version = same(server.quick())
        -- A call that begins after a reload reaches the new code.
        if version < least then error(('version %d after the reload to %d'):format(version, least)) end
      end
      calls = calls + 1
      last = version
      yue.yield()
    end
    return last
  end)
end

local broken = { 'return {', "error 'at load'", "require 'nowhere'", "return { version = 0 }" }
for n = 2, RELOADS + 1 do
  if n % 5 == 0 then
    yue.fs.write(folder .. '/rules.lua', broken[n / 5 % #broken + 1])
    check.that(not pcall(yue.reload), 'a broken version was loaded')
  end
  write(n)
  local report = yue.reload()
  newest = n
  check.equal(#report.modules, 3)
  local before = calls
  check.eventually(function() return calls > before + 3 end)
end
stop = true
for i = 1, CLIENTS do clients[i]:get() end
check.that(calls > RELOADS)
check.equal(state.calls, calls)
check.eventually(function()
  local versions = 0
  for _ in pairs(yue.reload.versions()) do versions = versions + 1 end
  return versions == 1
end, 'old versions have ended')
listener:close()
print('calls: ' .. calls)
check.done()
