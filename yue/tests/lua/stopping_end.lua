--! stdout: sleep: CancelledError
--! stdout: yield: CancelledError
--! stdout: get: CancelledError
--! stdout: all: CancelledError
--! stdout: any: CancelledError
--! stdout: wait: CancelledError
--! stdout: comparator: CancelledError
--! stdout: coroutine: CancelledError
--! stdout: shielded sleep: CancelledError
-- The end of the program reaches every call that waits, shielded ones at last.
local check = require 'check'

local never = yue.fiber(function() end) -- It is not run.
local silent = yue.emitter()
local function slow() yue.sleep(3600) end
local calls = {
  sleep = slow,
  yield = function() while true do yue.yield() end end,
  get = function() never:get() end,
  all = function() yue.all { never } end,
  any = function() yue.any { never } end,
  wait = function() silent:wait('never') end,
  comparator = function() table.sort({ 2, 1 }, slow) end,
  coroutine = function()
    local ok, e = coroutine.resume(coroutine.create(slow))
    if not ok then error(e, 0) end
  end,
  ['shielded sleep'] = function() yue.shield(slow) end,
}
for name, call in pairs(calls) do
  yue.spawn(function()
    local _, e = pcall(call)
    print(name .. ': ' .. (type(e) == 'table' and e.type or tostring(e)))
  end)
end
yue.spawn(function()
  yue.sleep(0.01)
  check.that(true)
  check.done()
  yue.die { shutdown_after = 0.001 }
end)
