--! stderr: from a finalizer
--! stderr: yue warn: a finalizer (__gc) failed: RuntimeError: an object
-- Finalizers: what they may not do is refused; errors in them hurt nobody; at the end they are quiet.
local check = require 'check'
local said = {}
local function finalizer(f)
  local proxy = newproxy(true)
  getmetatable(proxy).__gc = f
end
finalizer(function()
  local ok, e = pcall(yue.sleep, 0)
  said[#said + 1] = ok and 'slept' or tostring(e)
end)
finalizer(function()
  local ok, e = pcall(function() yue.emitter():wait('x') end)
  said[#said + 1] = ok and 'waited' or tostring(e)
end)
check.eventually(function() collectgarbage() return #said == 2 end)
for _, text in ipairs(said) do check.contains(text, '__gc') end

finalizer(function() error(yue.errors.RuntimeError.new('an object')) end)
collectgarbage()

-- These may be done.
local spawned, emitted
local emitter = yue.emitter()
emitter:bind('x', function() emitted = true end)
finalizer(function() yue.spawn(function() spawned = true end) emitter:emit('x') end)
check.eventually(function() collectgarbage() return spawned and emitted end)

-- An error in one is logged, and nothing else happens.
finalizer(function() error('from a finalizer') end)
collectgarbage()
yue.sleep(0.001)

-- Those that are left for the end: connections, futures that failed, ours and theirs.
local listener = yue.listen('tcp://127.0.0.1:0', { f = function() return function() end end })
_G.left_connection = yue.open(listener:addr(), { no_cache = true }, nil)
_G.left_function = left_connection.f()
_G.left_future = left_connection.async_missing()
_G.left_future:sync()
local future = yue.spawn(yue.sleep, 3600)
future:cancel()
_G.left_fiber = future
local thread = yue.thread('t', function() end)
thread:close()
_G.left_thread = thread
listener:close()
check.done()
