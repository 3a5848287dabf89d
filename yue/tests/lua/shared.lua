-- Shared structures: one memory for all threads, initialized once.
local check = require 'check'
local ffi = require 'ffi'

check.equal(yue.shared.counters, nil)
local inits = 0
yue.shared.counters = { 'struct { int64_t hits; double last[4]; struct { uint8_t flag; } inner; }', function(c)
  inits = inits + 1
  check.equal(tonumber(c.hits), 0, 'it begins zeroed')
  c.hits, c.last[3], c.inner.flag = 5, 0.5, 7
end }
local counters = yue.shared.counters
check.equal(tonumber(counters.hits), 5)
check.equal(counters.last[3], 0.5)
check.equal(tonumber(ffi.cast('uintptr_t', ffi.cast('void *', counters))) % 64, 0)

-- Declared again, it is the same memory, and is not initialized again.
yue.shared.counters = { 'struct { int64_t hits; double last[4]; struct { uint8_t flag; } inner; }', function()
  inits = 99
end }
check.equal(inits, 1)
check.equal(tonumber(yue.shared.counters.hits), 5)

-- Another thread finds it by its name, or declares it, too.
local thread = yue.thread('reader', function()
  local mine = yue.shared.counters
  mine.hits = mine.hits + 1
  yue.shared.from_thread = { 'struct { int32_t n; }', function(s) s.n = 42 end }
  yue.thread.current:import {
    read = function() return tonumber(yue.shared.counters.hits), yue.shared.counters.inner.flag end,
    set = function(n) yue.shared.counters.last[0] = n end,
  }
end)
check.equal({ thread.procs.read() }, { 6, 7 })
counters.hits = 100
check.equal((thread.procs.read()), 100)
thread.procs.set(2.25)
check.equal(counters.last[0], 2.25)
check.equal(yue.shared.from_thread.n, 42)
thread:close()

-- Several threads declare it at once: one initializes it, which may wait, and the others wait for that.
local threads = {}
for i = 1, 4 do
  threads[i] = yue.thread('racer' .. i, function()
    yue.thread.current:import { seen = function() return yue.shared.raced.ready end }
    yue.shared.raced = { 'struct { int32_t inits; int32_t ready; }', function(s)
      s.inits = s.inits + 1
      yue.sleep(0.02)
      s.ready = 1
    end }
  end)
end
for i = 1, 4 do check.equal(threads[i].procs.seen(), 1) end
check.equal(yue.shared.raced.inits, 1)
for i = 1, 4 do threads[i]:close() end

-- An init that fails leaves nothing behind.
check.raises('RuntimeError', 'not today', function()
  yue.shared.failing = { 'struct { int x; }', function() error('not today') end }
end)
check.equal(yue.shared.failing, nil)
yue.shared.failing = { 'union { int x; double y; }' }
check.equal(yue.shared.failing.x, 0)

-- A fiber that waits for another's init can be cancelled.
local first = yue.spawn(function() yue.shared.slow = { 'struct { int x; }', function() yue.sleep(60) end } end)
yue.yield()
local second = yue.spawn(function() return yue.shared.slow end)
yue.yield()
second:cancel()
check.raises('CancelledError', nil, second.get, second)
first:cancel()
check.raises('CancelledError', nil, first.get, first)
check.equal(yue.shared.slow, nil)

-- A type that the program has declared by name
ffi.cdef 'struct yue_test_point { int x, y; };'
yue.shared.point = { 'struct yue_test_point', function(p) p.x = 3 end }
check.equal(yue.shared.point.x, 3)

for _, wrong in ipairs { 5, 'struct { int x; }', {}, { 'int' }, { 'int *' }, { 5 }, { 'structure' } } do
  check.raises('ArgumentError', 'a C struct', function() yue.shared.wrong = wrong end)
end
check.raises('ArgumentError', 'not valid C', function() yue.shared.wrong = { 'struct { nonsense x; }' } end)
check.raises('ArgumentError', 'undeclared', function() yue.shared.wrong = { 'struct yue_never_declared' } end)
check.raises('ArgumentError', 'no size', function() yue.shared.wrong = { 'struct { }' } end)
check.raises('ArgumentError', 'init is a function', function() yue.shared.wrong = { 'struct { int x; }', 5 } end)
check.raises('ArgumentError', 'another declaration: struct { int64_t hits;', function()
  yue.shared.counters = { 'struct { int x; }' }
end)
check.raises('ArgumentError', 'name of a shared struct', function() yue.shared[5] = { 'struct { int x; }' } end)
check.equal(yue.shared[5], nil)
check.done()
