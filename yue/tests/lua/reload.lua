--! stderr: the handler of fail failed
-- Reloads: modules, files of symbols, what depends on them, fibers in older versions, failures, states.
local check = require 'check'
local folder = yue.fs.temp()
package.path = folder .. '/?.lua;' .. package.path

local function write(name, text) yue.fs.write(folder .. '/' .. name .. '.lua', text) end
_G.loads = {}
local function source(name, body)
  return ('loads[%q] = (loads[%q] or 0) + 1\n%s'):format(name, name, body)
end

-- -- Modules, and those that depend on them
write('base', source('base', 'return { value = 1 }'))
write('middle', source('middle', "local base = require 'base' return { get = function() return base.value end }"))
write('other', source('other', 'return { value = "other" }'))
local middle, other = require 'middle', require 'other'
check.equal(yue.reload().modules, {})
check.equal(yue.reload().version, 1)

write('base', source('base', 'return { value = 2 }'))
local report = yue.reload()
check.equal(report.modules, { 'base', 'middle' })
check.equal(report.version, 2)
check.equal(middle.get(), 1, 'an old table keeps its version')
check.equal(require 'middle'.get(), 2)
check.that(require 'other' == other)
check.equal(_G.loads, { base = 2, middle = 2, other = 1 })

-- By name, changed or not; a module that others depend on takes them along.
check.equal(yue.reload('other').modules, { 'other' })
check.equal(yue.reload { 'base', 'other' }.modules, { 'base', 'middle', 'other' })
check.raises('ArgumentError', 'nothing is not loaded from a file of Lua', yue.reload, 'nothing')
check.raises('ArgumentError', 'yue is not loaded', yue.reload, 'yue')
check.raises('ArgumentError', 'takes the name of a module, or a list of names, not the number 1', yue.reload, 1)
check.raises('ArgumentError', 'a name is a string', yue.reload, { {} })

-- A new dependency is loaded along; the same text again changes nothing.
write('added', source('added', "local base = require 'base' return { value = base.value }"))
write('middle', source('middle', "local added = require 'added' return { get = function() return added.value end }"))
check.equal(yue.reload().modules, { 'added', 'middle' })
check.equal(require 'middle'.get(), 2)
write('base', source('base', 'return { value = 3 }'))
check.equal(yue.reload().modules, { 'added', 'base', 'middle' })
check.equal(require 'middle'.get(), 3)
write('base', source('base', 'return { value = 3 }'))
check.equal(yue.reload().modules, {})

-- -- A load that fails changes nothing
local before = { base = require 'base', middle = require 'middle', added = require 'added' }
local version = yue.reload.advance()
local function refused(part)
  local e = check.raises('Error', part, yue.reload)
  check.contains(e.msg, 'nothing was reloaded: ')
  for name, module in pairs(before) do check.that(require(name) == module, name) end
  check.equal(yue.reload.advance(), version)
end
write('added', source('added', 'return { value = "new" }'))
write('base', 'return {\n  value = = 4 }')
refused('base.lua:2:')
write('base', '\n\nerror "at load"')
refused('base.lua:3: at load')
write('base', 'error { code = 7 }')
refused('an error value was raised')
yue.fs.remove(folder .. '/base.lua')
refused("module 'base' not found")
write('base', "require 'missing_one' return {}")
refused("module 'missing_one' not found")
write('base', "require 'middle' return {}")
write('middle', "require 'base' return {}")
refused("loop while loading module")
write('base', "yue.reload() return {}")
refused('a module cannot reload while it is being loaded')
-- A module that is loaded for the first time by a reload that fails is forgotten, too.
write('fresh', source('fresh', "local base = require 'base' return { base = base }"))
write('base', source('base', 'return { value = 5 }'))
write('middle', "require 'fresh' error 'no'")
refused('middle.lua:1: no')
check.equal(package.loaded.fresh, nil)
write('middle', "require 'fresh' return { get = function() return require 'base'.value end }")
check.equal(yue.reload().modules, { 'added', 'base', 'fresh', 'middle' })
check.that(require 'fresh'.base == require 'base')
check.equal(require 'middle'.get(), 5)

-- Modules that publish themselves, return nothing, false, or wait while they load.
write('published', "local m = { value = 1 } package.loaded[...] = m")
write('nothing', 'loads.nothing = 1')
write('waits', 'yue.sleep(0.01) return { value = 1 }')
local published, waits = require 'published', require 'waits'
check.equal(require 'nothing', true)
write('published', "local m = { value = 2 } package.loaded[...] = m")
write('nothing', 'loads.nothing = 2')
write('waits', 'yue.sleep(0.02) return { value = 2 }')
local seen = {}
local watcher = yue.spawn(function()
  repeat
    seen[require 'waits'.value .. require 'published'.value] = true
    yue.yield()
  until require 'waits'.value == 2
end)
check.equal(yue.reload().modules, { 'nothing', 'published', 'waits' })
check.equal(require 'nothing', true)
check.equal({ require 'published'.value, require 'waits'.value }, { 2, 2 })
check.equal(published.value, 1)
-- Another fiber, which began before, never sees the new ones; and none sees a half of it.
check.equal(seen, { ['11'] = true })
watcher:cancel()
watcher:sync()

-- A module that waits while it is loaded, and has required what a reload exchanges meanwhile, is loaded again.
write('late_base', 'return { n = 1 }')
write('late', "local base = require 'late_base' gate:wait() return { base = base }")
_G.gate = yue.event()
local loading = yue.spawn(require, 'late')
yue.yield()
write('late_base', 'return { n = 2 }')
check.equal(yue.reload().modules, { 'late_base' })
gate:set()
check.equal(loading:get().base.n, 1)
check.equal(yue.reload().modules, { 'late' })
check.equal(require 'late'.base.n, 2)

-- So is a file that somebody listens with while a reload loads.
write('late_base', "yue.sleep(0.02) return { n = 3 }")
write('late_symbols', "local base = require 'late_base' function n() return base.n end")
local reloading = yue.spawn(yue.reload)
yue.yield()
local late = yue.listen('tcp://127.0.0.1:0', folder .. '/late_symbols.lua')
check.equal(reloading:get().modules, { 'late', 'late_base' })
check.equal(late.namespace.n(), 2)
check.equal(yue.reload().modules, { folder .. '/late_symbols.lua' })
check.equal(late.namespace.n(), 3)
late:close()

-- Modules without a file are left alone.
package.preload.given = function() return { n = 1 } end
local given = require 'given'
check.that(#yue.reload().modules == 0 and require 'given' == given)
check.raises('ArgumentError', 'given is not loaded from a file', yue.reload, 'given')

-- -- Fibers keep the version in which they began
write('code', 'return { version = 1 }')
local code = require 'code'
local release = yue.event()
local function look() release:wait() return require 'code'.version, code.version end
local old = yue.fiber(look, 'keeper'):run()
local parent = yue.fiber(function()
  release:wait()
  -- What an old fiber starts is part of its work.
  local child = yue.spawn(function() return require 'code'.version end)
  local seen_by_callback
  child:on(function() seen_by_callback = require 'code'.version end)
  local result = child:get()
  yue.yield() yue.yield()
  return result, seen_by_callback
end, 'parent'):run()
local moved = yue.fiber(function()
  release:wait()
  local first = require 'code'.version
  local number = yue.reload.advance()
  return first, require 'code'.version, number
end, 'moved'):run()
local not_started = yue.spawn(function() return require 'code'.version end)
write('code', 'return { version = 2 }')
report = yue.reload()
local v = report.version
local keepers = report.fibers[v - 1]
check.equal({ keepers[1], keepers[2], keepers[3] }, { 'keeper', 'moved', 'parent' })
local newer = yue.fiber(look, 'newer'):run()
write('code', 'return { version = 3 }')
report = yue.reload()
check.that(#report.fibers[v - 1] >= 3, 'those that are older stay')
check.equal(report.fibers[v], { 'newer', count = 1 })
release:set()
check.equal({ old:get() }, { 1, 1 })
check.equal({ newer:get() }, { 2, 1 })
check.equal({ parent:get() }, { 1, 1 })
check.equal({ moved:get() }, { 1, 3, v + 1 })
check.equal(not_started:get(), 1)
check.equal(yue.spawn(function() return require 'code'.version end):get(), 3)
check.eventually(function()
  local all = yue.reload.versions()
  return all[v - 1] == nil and all[v] == nil and all[v + 1]
end, 'ended fibers have left their versions')

-- -- Timers and emitters: bound functions stay; those that are found at each call do not.
local fixed, found = {}, {}
local timer = yue.timer(0, 0.002)
local fn = require 'code'
timer:bind('tick', function()
  fixed[fn.version] = true
  found[require 'code'.version] = true
end)
timer:wait 'tick'
write('code', 'return { version = 4 }')
yue.reload()
check.eventually(function() return found[4] end)
check.that(fixed[3] and not fixed[4])
local emitter = yue.emitter()
emitter:bind('x', function() emitter.seen = require 'code'.version end)
write('code', 'return { version = 5 }')
yue.reload()
emitter:emit 'x'
check.eventually(function() return emitter.seen == 5 end)
check.eventually(function() return found[5] end)
timer:close()

-- -- Files of symbols, and modules as symbols
write('symbols', [[
local code = require 'code'
function version() return 1, code.version end
function slow() gate:wait() return 1, code.version, require 'code'.version end
function fail() error 'on purpose' end
function removed() end
count = 0
]])
_G.gate = yue.event()
write('api', 'return { which = function() return 1 end }')
local listener = yue.listen('tcp://127.0.0.1:0', folder .. '/symbols.lua')
listener:import(require 'api')
listener:import { plain = function() return 'plain' end }
local server = yue.open(listener:addr(), { no_cache = true }, nil)
listener.namespace.added = function() return 'added' end
check.equal({ server.version() }, { 1, 5 })
pcall(server.fail)
local running = server.async_slow()
check.eventually(function()
  return listener:stats().requests_in_flight == 1
end)
write('symbols', [[
local code = require 'code'
function version() return 2, code.version end
function slow() return 2, code.version, require 'code'.version end
function another() return 'another' end
]])
write('code', 'return { version = 6 }')
write('api', 'return { which = function() return 2 end }')
report = yue.reload()
check.equal(report.modules, { folder .. '/symbols.lua', 'api', 'code' })
check.equal({ server.version() }, { 2, 6 })
check.equal({ server.slow() }, { 2, 6, 6 })
check.equal({ server.which(), server.another(), server.plain(), server.added() }, { 2, 'another', 'plain', 'added' })
check.raises('NoMethodError', nil, server.removed)
local names = yue.reload.versions()[report.version - 1]
check.contains(table.concat(names, '|'), 'slow')
gate:set()
check.equal({ running:get() }, { 1, 5, 5 })
check.eventually(function() return yue.reload.versions()[report.version - 1] == nil end)
-- A dependency takes the file along; a bad file is refused.
write('code', 'return { version = 7 }')
check.equal(yue.reload().modules, { folder .. '/symbols.lua', 'code' })
check.equal({ server.version() }, { 2, 7 })
check.equal(yue.reload(folder .. '/symbols.lua').modules, { folder .. '/symbols.lua' })
for _, bad in ipairs {
  { 'function __acept() end', '__acept is not a callback' }, { 'function x( end', 'symbols.lua:1:' },
} do
  write('symbols', bad[1])
  check.raises('Error', bad[2], yue.reload)
  check.equal({ server.version() }, { 2, 7 })
end
listener:close()
check.raises('ArgumentError', 'cannot load the symbols', yue.listen, 'tcp://127.0.0.1:0', folder .. '/symbols.lua')
-- A module made by Lua 5.1's `module` is changed in place, and stays the module.
write('old_style', 'module("old_style", package.seeall) x = 1')
local old_style = require 'old_style'
write('old_style', 'module("old_style", package.seeall) x = 2')
check.equal(yue.reload().modules, { 'old_style' })
check.that(require 'old_style' == old_style)
check.equal(old_style.x, 2)

check.done()
