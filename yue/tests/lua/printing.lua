--! stdout: { 1, nil
--! stderr: Z yue info: hello { a = 1 }
-- print from several threads: lines stay whole. pp and log show what is in tables.
local check = require 'check'
local threads = {}
for i = 1, 4 do
  threads[i] = yue.thread('printer' .. i, function()
    yue.thread.current:import {
      go = function(n) for _ = 1, 200 do print('line', 'of', 'printer', n) end end,
    }
  end)
end
local futures = {}
for i = 1, 4 do futures[i] = threads[i].procs.async_go(i) end
yue.all(futures)
for i = 1, 4 do threads[i]:close() end
print('{ 1, nil')
yue.pp({ 1, 2, key = { nested = true } }, 'text', nil, print)
local cyclic = {}
cyclic.self = cyclic
yue.pp(cyclic)
yue.log.debug('not shown')
yue.log.info('hello', { a = 1 })
check.that(true)
check.done()
