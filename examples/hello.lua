-- A server and a client in one program. Run it with:  cargo run --release -- examples/hello.lua
local yue = require 'yue'

-- What may be called is an ordinary table. Port 0: the system chooses one.
local listener = yue.listen('tcp://127.0.0.1:0', {
  hello = function(name) return 'hello ' .. name end,
  math = { add = function(a, b) return a + b end },
  fail = function() error('this went wrong on the server') end,
})
print('listening at ' .. listener:addr())

-- There is no connect: the first call connects.
local server = yue.open(listener:addr())
print('a call:          ' .. server.hello('world'))
print('a nested name:   ' .. server.math.add(20, 22))

-- An error travels to the caller, with the file and line where it was raised.
local ok, e = pcall(server.fail)
assert(not ok and e:is_a('RuntimeError'))
print('an error:        ' .. tostring(e))

-- A thousand fibers call at once, over the one connection. Each is written as if it were alone.
local FIBERS, CALLS = 1000, 300
local function call_often(first)
  local sum = 0
  for i = first, first + CALLS - 1 do sum = sum + server.math.add(i, 1) end
  return sum
end

local function measure(text, work)
  local start, fibers = yue.util.time.now(), {}
  for i = 1, FIBERS do fibers[i] = yue.spawn(work, i) end
  for i, sum in ipairs(yue.all(fibers)) do
    assert(sum == CALLS * (i + 1) + CALLS * (CALLS - 1) / 2)
  end
  local seconds = (yue.util.time.now() - start) / 1e6
  print(('%s %d calls in %.2f s: %.0f calls/s'):format(text, FIBERS * CALLS, seconds, FIBERS * CALLS / seconds))
end

measure('1000 fibers:    ', call_often)

-- A worker thread has a loop and a Lua of its own, and is called with the same syntax.
local thread = yue.thread('worker', function()
  yue.thread.current:import {
    add = function(a, b) return a + b end,
    where = function() return 'thread ' .. yue.thread.current.name end,
  }
end)
local worker = yue.open('thread://worker')
print('a thread:        ' .. worker.where())

measure('thread://worker:', function(first)
  local sum = 0
  for i = first, first + CALLS - 1 do sum = sum + worker.add(i, 1) end
  return sum
end)

-- Nothing is open any more: the program ends.
thread:close()
listener:close()
print('done')
