--! stderr: a fiber failed and nobody asked for its result: RuntimeError
--! stderr: lost in a fiber
--! stderr: a call failed and nobody asked for its result: NoMethodError
--! stderr: 100 times: a fiber failed and nobody asked for its result: RuntimeError
-- What fails and is never asked for is told: when it is collected, or at the end.
local check = require 'check'
yue.spawn(function() error('lost in a fiber') end)
local c, listener = check.pair {}
local call = c.async_missing()
check.eventually(function() return call:done() end)
-- These are not told: they were asked for, or given up.
local asked = yue.spawn(function() error('asked for') end)
check.equal(asked:sync(), false)
local given_up = yue.spawn(function() yue.sleep(60) end)
given_up:cancel()
for _ = 1, 5 do
  collectgarbage()
  yue.sleep(0.01)
end
listener:close()
-- Many that fail alike, at the end, are one remark.
local function fail() error('all alike') end
for _ = 1, 100 do yue.spawn(fail) end
yue.sleep(0.01)
check.done()
