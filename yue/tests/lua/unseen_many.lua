--! stderr: warn: 1000 times: a fiber failed and nobody asked for its result: RuntimeError
-- A thousand fibers that fail alike are one remark, also where the collector comes upon them a few at a time.
local check = require 'check'
collectgarbage()
yue.sleep(0.05)
local failed = 0
local function fail()
  failed = failed + 1
  error('all alike')
end
for _ = 1, 1000 do yue.spawn(fail) end
check.eventually(function() return failed == 1000 end)
-- The collector continues while the program waits.
yue.sleep(0.3)
check.equal(failed, 1000)
check.done()
