-- A handler that runs when the program ends gets time to finish: of RPC and of HTTP, whether the program is shut down
-- or its last listener is closed.
local check = require 'check'
local folder = yue.fs.temp()
local exe = 0
while arg[exe - 1] do exe = exe - 1 end

local PROGRAM = [[
local kind, how = 'KIND', 'HOW'
local function work()
  io.write 'started\n'
  local ok, e = pcall(yue.sleep, 0.3)
  print(ok and 'finished' or 'cut: ' .. e.type)
  return 'done'
end
local server
if kind == 'http' then
  server = yue.http.serve('unix://FOLDER/socket', { ['POST /pay'] = work })
else
  server = yue.listen('unix://FOLDER/socket', { pay = work })
end
local die = yue.signal(yue.const.SIGUSR1)
die:bind('signal', function()
  die:close()
  if how == 'close' then server:close() elseif how == 'die' then yue.die() end
end)
print 'ready'
]]

for _, kind in ipairs { 'http', 'rpc' } do
  for _, how in ipairs { 'close', 'die', 'term' } do
    local replaced = { KIND = kind, HOW = how, FOLDER = folder }
    local script = folder .. '/program.lua'
    yue.fs.write(script, (PROGRAM:gsub('%u%u%u+', replaced)))
    local child = yue.process.spawn { arg[exe], script }
    check.equal(child.out:line(), 'ready')
    local answer
    if kind == 'http' then
      local url = 'http://localhost/pay'
      answer = yue.spawn(function() return yue.http.post(url, '', { socket = folder .. '/socket' }).body end)
    else
      local c = yue.open('unix://' .. folder .. '/socket', { no_cache = true }, nil)
      answer = yue.spawn(function() return c.pay() end)
    end
    check.equal(child.out:line(), 'started')
    child:kill(how == 'term' and yue.const.SIGTERM or yue.const.SIGUSR1)
    check.equal(child.out:line(), 'finished', kind .. ' ' .. how)
    -- A listener of RPC that is closed closes its connections; the handler finishes for nobody.
    if kind == 'http' or how ~= 'close' then
      check.equal({ answer:sync() }, { true, 'done' }, kind .. ' ' .. how)
    else
      check.equal(answer:sync(), false)
    end
    check.equal(child:wait(), { code = how == 'term' and 143 or 0 })
  end
end
check.done()
