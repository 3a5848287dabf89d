-- Reloads under load: a call sees one version of all modules, and no connection sees an older one again.
local yue = require 'yue'
local sim = require 'yue.sim'

local fault, newest = nil, 0
yue.listen('tcp://0.0.0.0:9000', {
  fault = function(text) sim.note(text) fault = text end,
  seen = function(version) newest = math.max(newest, version) end,
})

local function server()
  -- Modules whose text has the number of a version in it, as an editor would write it into both files.
  local version = 1
  table.insert(package.loaders, 2, function(name)
    if name == 'rules' then
      return loadstring(('return { version = %d, world = require "world" }'):format(version), '=rules')
    elseif name == 'world' then
      return loadstring(('return { version = %d }'):format(version), '=world')
    end
  end)
  require 'rules'
  yue.listen('tcp://0.0.0.0:7000', {
    look = function()
      local rules = require 'rules'
      local before = { rules.version, rules.world.version }
      yue.sleep(math.random() * 0.02)
      return before[1], before[2]
    end,
  })
  while true do
    yue.sleep(0.05 + math.random() * 0.1)
    version = version + 1
    yue.reload 'world'
  end
end

local function client()
  local journal = yue.open('tcp://scenario:9000', { retry = true }, nil)
  local server = yue.open('tcp://server:7000', { retry = true }, nil)
  local last = 0
  while true do
    local ok, rules, world = pcall(server.look)
    if ok then
      if rules ~= world then journal.fault(('rules %d with world %d'):format(rules, world)) end
      if rules < last then journal.fault(('version %d after %d'):format(rules, last)) end
      last = rules
      journal.notify_seen(rules)
    end
    yue.sleep(math.random() * 0.01)
  end
end

sim.host('server', server)
for _, name in ipairs { 'a', 'b', 'c' } do sim.host(name, client) end
sim.always('a call sees one version', function() return not fault, fault end)
sim.eventually('new versions are seen', 30, function() return newest >= 20 end)
