--! stderr: a fiber failed and nobody asked for its result: RuntimeError
--! stderr: lost in a fiber
--! stderr: a call failed and nobody asked for its result: NoMethodError
--! stderr: 100 times: a fiber failed and nobody asked for its result: RuntimeError
-- A failure that nobody asks for is logged: when it is collected, or at the end.
local check = require 'check'
yue.spawn(function() error('lost in a fiber') end)
local c, listener = check.pair {}
local call = c.async_missing()
check.eventually(function() return call:done() end)
-- These are not logged: they were asked for, or cancelled.
local asked = yue.spawn(function() error('asked for') end)
check.equal(asked:sync(), false)
local given_up = yue.spawn(function() yue.sleep(60) end)
given_up:cancel()
for _ = 1, 5 do
  collectgarbage()
  yue.sleep(0.01)
end
listener:close()
-- Many equal failures at the end are one line.
local function fail() error('all alike') end
for _ = 1, 100 do yue.spawn(fail) end
yue.sleep(0.01)
check.done()
