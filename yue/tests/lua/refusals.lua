-- Where a wait is refused the refusal is an error object with the line in its message.
local check = require 'check'

local function refused_in_finalizer(wait, ...)
  local arguments, ok, e = { ... }
  local proxy = newproxy(true)
  getmetatable(proxy).__gc = function() ok, e = pcall(wait, unpack(arguments)) end
  proxy = nil
  collectgarbage()
  collectgarbage()
  check.equal(ok, false)
  return e
end

local server, listener = check.pair { hello = function() return 'hello' end }
check.equal(server.hello(), 'hello')
local future = yue.spawn(yue.sleep, 3600)
local event = yue.emitter()
for _, case in ipairs {
  { yue.sleep, 1 },
  { yue.yield },
  { server.hello },
  { server.timed_hello, 1 },
  { future.get, future },
  { event.wait, event, 'x' },
  { yue.all, { future } },
} do
  local e = refused_in_finalizer(unpack(case))
  check.equal(type(e), 'table')
  check.that(e:is_a('RuntimeError') and e:is_a('Error'), tostring(e))
  check.contains(e.msg, 'cannot suspend inside a __gc finalizer')
  check.contains('before: ' .. e, 'before: RuntimeError: ')
end
-- Of Lua's own line, where there is one.
local e = refused_in_finalizer(function() local x = yue.sleep(1) return x end)
check.contains(e.msg, 'refusals.lua:')
-- The loop is as it was.
check.equal(server.hello(), 'hello')
future:cancel()

-- A hook, and an FFI callback.
local told
jit.off()
debug.sethook(function() told = told or select(2, pcall(yue.yield)) end, '', 1)
local _ = 1 + 1
debug.sethook()
jit.on()
check.that(told:is_a('RuntimeError'))
check.contains(told.msg, 'debug hook')
local ffi = require 'ffi'
local callback = ffi.cast('void (*)(void)', function() told = select(2, pcall(yue.yield)) end)
callback()
callback:free()
check.that(told:is_a('RuntimeError'))
check.contains(told.msg, 'FFI callback')

-- Cancelled while another fiber loads the module: that is what it is told.
package.preload.slow = function() yue.sleep(0.05) return 'slow' end
local loading = yue.spawn(require, 'slow')
local waiting = yue.spawn(require, 'slow')
yue.yield()
waiting:cancel()
local ok, cancelled = waiting:sync()
check.equal(ok, false)
check.that(cancelled:is_a('CancelledError'), tostring(cancelled))
check.equal(loading:get(), 'slow')
listener:close()
check.done()
