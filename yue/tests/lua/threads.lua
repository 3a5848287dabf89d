--! stderr: the thread ends: RuntimeError
--! stderr: later in the thread
-- Worker threads: started, called, found, joined, closed; what goes wrong in them.
local yue = require 'yue'
local check = require 'check'

local t = yue.thread('adder', function()
  local total = 0
  yue.thread.current:import {
    add = function(x) total = total + x return total end,
    name = function() return yue.thread.current.name, yue.mode end,
    fail = function() error('in the thread') end,
    back = function(f) return f('called back') end,
    sleep = function(s) yue.sleep(s) return s end,
    exit = function(x) yue.thread.current:exit(x) end,
    peer = function() return yue.peer():addr() end,
  }
end)
check.equal(t.procs.add(2), 2)
check.equal(yue.open('thread://adder').add(3), 5)
check.equal({ t.procs.name() }, { 'adder', 'thread' })
check.contains(check.raises('RuntimeError', 'in the thread', t.procs.fail).msg, 'threads.lua')
check.equal(t.procs.back(function(x) return x .. '!' end), 'called back!')
check.equal(t.procs.async_sleep(0.001):get(), 0.001)
check.raises('TimeoutError', nil, t.procs.timed_sleep, 0.01, 60)
check.raises('NoMethodError', nil, function() t.procs.nothing() end)
check.equal(yue.thread.count(), 1)
local found = yue.thread.find('adder')
check.equal(found.procs.add(0), 5)
check.equal(yue.thread.find('nobody'), nil)
check.raises('ArgumentError', 'already', yue.thread, 'adder', function() end)
check.contains(tostring(t), 'adder')
t.procs.notify_exit({ 'bye' })
check.equal(t:join(), { 'bye' })
check.equal(t:join(), { 'bye' }, 'again')
check.equal(yue.thread.count(), 0)
check.equal(yue.thread.find('adder'), nil)
t:close()
t:close()
check.raises('ConnectionLostError', nil, t.procs.add, 1)

-- The name is free again. Symbols: functions, nested tables, plain values, options.
t = yue.thread('adder', function() end, { timeout = 60 }, {
  hello = function(x) return 'hello ' .. x end,
  nested = { deep = { f = function() return yue.util.time.now() > 0 end } },
  list = { 'one' },
  __accept = function() return true end,
})
check.equal(t.procs.hello('thread'), 'hello thread')
check.equal(t.procs.nested.deep.f(), true)
t:close()
check.equal(t:join(), nil)

-- A file
local path = os.tmpname()
local file = assert(io.open(path, 'w'))
file:write('function from_file() return "file" end yue.thread.current:import { g = from_file }')
file:close()
t = yue.thread('filed', path, path)
check.equal(t.procs.g(), 'file')
check.equal(t.procs.from_file(), 'file')
t:close()
os.remove(path)

-- What goes wrong at the start is raised at the creator; later it is told, and join raises it.
local e = check.raises('RuntimeError', 'at once', yue.thread, 'bad', function() error('at once') end)
check.contains(e.bt, 'threads')
check.raises('RuntimeError', nil, yue.thread, 'bad', '/no/such/file.lua')
check.raises('ArgumentError', "without blanks, control characters and '/'", yue.thread, 'a/b', function() end)
check.raises('ArgumentError', 'the code of yue.thread is a native function', yue.thread, 'bad', print)
check.raises('ArgumentError', 'symbols.print is a native function', yue.thread, 'c', function() end, { print = print })
check.equal(yue.thread.count(), 0)
t = yue.thread('later', function() yue.sleep(0.005) error('later in the thread') end)
check.raises('RuntimeError', 'later in the thread', t.join, t)
check.raises('TimeoutError', 'did not start', yue.thread, 'slow', function()
  local now = yue.util.time.now
  local until_ = now() + 300000
  while now() < until_ do end
end, { timeout = 0.02 })
check.eventually(function() return yue.thread.count() == 0 end)

-- A caller that waits when the thread ends
t = yue.thread('ending', function() yue.thread.current:import { wait = function() yue.sleep(3600) end } end)
local waiting = t.procs.timed_async_wait(60)
yue.sleep(0.01)
yue.spawn(function() t:close() end)
check.raises('Error', nil, waiting.get, waiting)
t:join()

-- Many at once
local threads = {}
for i = 1, 20 do threads[i] = yue.thread('many' .. i, function() end, { f = function(x) return x * 2 end }) end
for i = 1, 20 do check.equal(threads[i].procs.f(i), 2 * i) end
for i = 1, 20 do threads[i]:close() end
check.equal(yue.thread.count(), 0)

-- Threads call each other, and start others.
local a = yue.thread('a', function()
  yue.thread.current:import { ask_b = function() return yue.open('thread://b').answer() end }
end)
local b = yue.thread('b', function() yue.thread.current:import { answer = function() return 'b' end } end)
check.equal(a.procs.ask_b(), 'b')
a:close() b:close()

local upvalue = 1
check.raises('ArgumentError', 'upvalue', yue.thread, 'u', function() return upvalue end)
check.raises('ArgumentError', 'upvalue', yue.thread, 'u', function() end, { f = function() return upvalue end })
check.raises('ArgumentError', 'native', yue.thread, 'u', os.time)
local cyclic = {}
cyclic.x = cyclic
check.raises('ArgumentError', 'hold themselves', yue.thread, 'u', function() end, cyclic)
check.raises('ArgumentError', 'symbols', yue.thread, 'u', function() end, 5)
check.raises('ArgumentError', 'options', yue.thread, 'u', function() end, 5, {})
check.raises('ArgumentError', 'no option', yue.thread, 'u', function() end, { nonsense = 1 }, {})
check.raises('ArgumentError', 'timeout', yue.thread, 'u', function() end, { timeout = 'x' }, {})
for _, wrong in ipairs { 5, '', 'a b', 'a\0b', 'a/b', {} } do
  check.raises('ArgumentError', 'name', yue.thread, wrong, function() end)
end
check.raises('ArgumentError', 'name', yue.thread)
check.raises('ArgumentError', 'function without upvalues', yue.thread, 'u')
check.raises('ArgumentError', 'name', yue.thread.find)
check.raises('ArgumentError', 'worker', function() yue.thread.current:import {} end)
check.raises('ArgumentError', 'colon', function() yue.thread.current.exit() end)
check.done()
