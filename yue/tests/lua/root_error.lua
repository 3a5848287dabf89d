--! stderr: yue error: a fiber failed: RuntimeError: an error value was raised: a table
-- An error that leaves the functions of yue itself, where no program can catch it, is logged like any other.
local check = require 'check'
local raised = false
yue.spawn(function()
  debug.sethook(function()
    debug.sethook()
    raised = true
    error({})
  end, 'c')
end)
yue.sleep(0.01)
check.that(raised)
check.done()
