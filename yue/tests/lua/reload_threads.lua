--! stderr: the handler of reload failed
-- A reload is one of all loops and threads: all of them exchange, or none does.
local check = require 'check'
local folder = yue.fs.temp()
package.path = folder .. '/?.lua;' .. package.path
local function write(name, text) yue.fs.write(folder .. '/' .. name .. '.lua', text) end
write('code', 'return { version = 1 }')
write('symbols', "local code = require 'code' function symbols() return code.version end")
local code = require 'code'

local threads = {}
for i = 1, 3 do
  threads[i] = yue.thread('worker' .. i, function()
    yue.thread.current:import {
      start = function(folder)
        package.path = folder .. '/?.lua;' .. package.path
        require 'code'
        yue.thread.current:import(folder .. '/symbols.lua')
      end,
      version = function() return require 'code'.version end,
      reload = function(...) return yue.reload(...) end,
      hold = function() local t = yue.now() while yue.now() < t + 0.05 do end end,
    }
  end)
  -- One of them has loaded nothing.
  if i < 3 then threads[i].procs.start(folder) end
end
local function versions()
  local list = { require 'code'.version }
  for i = 1, 2 do
    list[#list + 1] = threads[i].procs.version()
    list[#list + 1] = threads[i].procs.symbols()
  end
  return list
end
check.equal(versions(), { 1, 1, 1, 1, 1 })
write('code', 'return { version = 2 }')
check.equal(yue.reload().modules, { 'code' })
check.equal(versions(), { 2, 2, 2, 2, 2 })

-- From any of them; a name may be known to some only.
write('code', 'return { version = 3 }')
local report = threads[1].procs.reload()
check.equal(report.modules, { folder .. '/symbols.lua', 'code' })
yue.reload.advance()
check.equal(versions(), { 3, 3, 3, 3, 3 })
check.raises('ArgumentError', 'code is not loaded', threads[3].procs.reload, 'code')

-- One that fails stops all. (The module fails in threads only.)
write('code', "if yue.mode == 'thread' then error 'not in a thread' end return { version = 4 }")
local e = check.raises('RuntimeError', 'not in a thread', yue.reload)
check.contains(e.msg, 'nothing was reloaded: ')
check.contains(e.msg, 'code.lua:1:')
check.equal(versions(), { 3, 3, 3, 3, 3 })
check.that(require 'code'.version == 3)
write('code', 'return { version = 5 }')
check.equal(yue.reload().modules, { 'code' })
check.equal(versions(), { 5, 5, 5, 5, 5 })

-- Several at once take their turns; a loop that is busy for a while is waited for.
threads[2].procs.notify_hold()
for n = 6, 15 do
  write('code', ('return { version = %d }'):format(n))
  local futures = { threads[1].procs.async_reload(), threads[2].procs.async_reload(), threads[1].procs.async_reload() }
  yue.reload()
  for _, future in ipairs(futures) do future:get() end
  yue.reload.advance()
  check.equal(versions(), { n, n, n, n, n })
end

-- A cancel, or a time limit, leaves no half: the next reload works.
write('code', 'yue.sleep(0.05) return { version = 16 }')
check.raises('TimeoutError', nil, yue.timeout, 0.01, yue.reload)
check.equal(versions(), { 15, 15, 15, 15, 15 })
check.equal(yue.reload().modules, { 'code' })
check.equal(versions(), { 16, 16, 16, 16, 16 })
for i = 1, 3 do threads[i]:close() end
check.done()
