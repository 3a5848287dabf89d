--! stdout: printed by a command
-- `os.execute` has the results of Lua 5.1 and lets the loop continue; `yue.stdin` reads the standard input.
local check = require 'check'

check.equal(os.execute 'true', 0)
check.equal(os.execute 'exit 3', 3 * 256)
check.equal(os.execute 'kill -TERM $$', yue.const.SIGTERM)
check.equal(os.execute 'echo printed by a command', 0)
check.equal(os.execute 'exit 2\0 exit 1', 2 * 256)
check.equal(os.execute(), 1)
check.equal(pcall(os.execute, {}), false)

local turns, stop = 0, false
local other = yue.spawn(function() while not stop do turns = turns + 1 yue.yield() end end)
check.equal(os.execute 'sleep 0.2', 0)
check.that(turns > 10, 'other fibers run meanwhile')
stop = true
other:get()

-- In a finalizer, where no fiber may wait.
local status
do
  local object = newproxy(true)
  getmetatable(object).__gc = function() status = os.execute 'exit 5' end
end
check.eventually(function()
  collectgarbage()
  return status
end)
check.equal(status, 5 * 256)

-- A command ends with the fiber that waits for it.
local folder = yue.fs.temp()
local fiber = yue.spawn(os.execute, ("cd '%s'; echo $$ > new; mv new pid; exec sleep 1000"):format(folder))
check.eventually(function() return yue.fs.exists(folder .. '/pid') end)
local pid = tonumber(yue.fs.read(folder .. '/pid'))
fiber:cancel()
check.raises('CancelledError', nil, fiber.get, fiber)
check.eventually(function()
  local ok, text = pcall(yue.fs.read, ('/proc/%d/stat'):format(pid))
  return not ok or text:find '^%d+ %b() [ZX]'
end)

-- The standard input of another program.
local script = folder .. '/reads.lua'
yue.fs.write(script, [[
  print(yue.stdin:line())
  print(yue.stdin:read(3))
  for line in yue.stdin:lines() do print('[' .. line .. ']') end
  print(yue.stdin:read())
]])
local first = 0
while arg[first - 1] do first = first - 1 end
local result = yue.process.run { arg[first], script, stdin = 'first\nabcd\n\nlast' }
check.equal(result, { code = 0, out = 'first\nabc\n[d]\n[]\n[last]\nnil\n', err = '' })
check.done()
