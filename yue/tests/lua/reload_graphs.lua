-- Reloads of random graphs of modules: exactly what has changed, and what depends on it, is loaded once; afterwards
-- every module has the present tables of those that it requires; a set with a broken module changes nothing.
local check = require 'check'
local folder = yue.fs.temp()
package.path = folder .. '/?.lua;' .. package.path
local MODULES, ROUNDS = 12, 300
math.randomseed(7)
_G.loads = {}

local deps, text = {}, {} -- as the files say
local serial = 0

local function write(i, broken)
  serial = serial + 1
  deps[i] = {}
  local lines = { ('loads[%d] = (loads[%d] or 0) + 1'):format(i, i), 'local m = { deps = {} }' }
  -- Of those with a greater number only: there is no loop.
  for j = i + 1, MODULES do
    if math.random() < 0.25 then
      deps[i][j] = true
      lines[#lines + 1] = ("m.deps[%d] = require 'm%d'"):format(j, j)
    end
  end
  lines[#lines + 1] = 'm.serial = ' .. serial
  lines[#lines + 1] = broken and ({ "error 'broken'", 'return {', "require 'nowhere'" })[math.random(3)] or 'return m'
  text[i] = table.concat(lines, '\n')
  yue.fs.write(('%s/m%d.lua'):format(folder, i), text[i])
end

local in_use = {} -- the dependencies of the versions that are loaded

local function affected(changed)
  local set = {}
  -- From the last to the first: dependencies come before those that have them.
  for i = MODULES, 1, -1 do
    if changed[i] then set[i] = true end
    for j in pairs(in_use[i]) do
      if set[j] then set[i] = true end
    end
  end
  return set
end

local function consistent()
  for i = 1, MODULES do
    local m = require('m' .. i)
    for j in pairs(in_use[i]) do
      if m.deps[j] ~= require('m' .. j) then error(('m%d has an old m%d'):format(i, j)) end
    end
  end
end

for i = MODULES, 1, -1 do write(i) end
for i = 1, MODULES do require('m' .. i) end
for i = 1, MODULES do in_use[i] = deps[i] end
consistent()

local refused, done, changed = 0, 0, {}
for _ = 1, ROUNDS do
  local broken
  for _ = 1, math.random(3) do
    local i = math.random(MODULES)
    local breaks = math.random() < 0.15
    write(i, breaks)
    changed[i] = breaks and 'broken' or true
  end
  for _, how in pairs(changed) do broken = broken or how == 'broken' end
  local tables, set = {}, affected(changed)
  for i = 1, MODULES do tables[i] = require('m' .. i) end
  _G.loads = {}
  local ok, report = pcall(yue.reload)
  check.equal(ok, not broken)
  if ok then
    done = done + 1
    local names = {}
    for i in pairs(set) do
      names['m' .. i] = true
      in_use[i] = deps[i]
    end
    for _, name in ipairs(report.modules) do
      check.that(names[name], name .. ' is not affected')
      names[name] = nil
    end
    check.equal(names, {}, 'missing in the reload')
    for i = 1, MODULES do
      check.equal(loads[i], set[i] and 1 or nil)
      check.equal(require('m' .. i) == tables[i], not set[i])
    end
    changed = {}
  else
    refused = refused + 1
    for i = 1, MODULES do check.that(require('m' .. i) == tables[i]) end
    -- Repaired before the next round, or not.
    if math.random() < 0.7 then
      for i, how in pairs(changed) do
        if how == 'broken' then
          write(i)
          changed[i] = true
        end
      end
    end
  end
  consistent()
end
check.that(refused > 20 and done > 100, ('%d refused, %d done'):format(refused, done))
check.done()
