--! stderr: the handler of fail failed
-- Nodes: `yue.nalloc` over a child, a command and a thread: calls in both directions, errors, the end.
local yue = require 'yue'
local check = require 'check'
local nodes = require 'nodes'
local double = function(x) return 2 * x end

-- -- One verb over every carrier --------------------------------------------------------------------------------------

local targets = {
  { name = 'this machine', mode = 'node' },
  { target = 'thread', name = 'a thread', mode = 'thread' },
  { target = { command = { yue.node.binary, 'node' } }, name = yue.node.binary, mode = 'node' },
  { target = function(need)
    check.contains(need.id, 'kvs.lua#')
    return { address = 'local' }
  end, name = 'a provider', mode = 'node' },
}
for _, carrier in ipairs(targets) do
  local kvs = yue.nalloc(carrier.target, nodes.library, { symbols = { double = double } })
  kvs.put('frodo', { 1, nil, 3 })
  check.equal(kvs.get('frodo'), { 1, nil, 3 })
  check.equal(kvs.ask(21), 42)
  check.equal(kvs.ask_peer(4), 8)
  check.equal(kvs.call(function(x) return x + 1 end, 5), 6)
  local id, target, epoch, mode = kvs.me()
  local conn = yue.conn(kvs)
  check.equal({ id, target, epoch, mode }, { conn.node.id, carrier.name, 1, carrier.mode })
  check.that(conn.node.pid and conn.node.host ~= '' and #conn.node.version == 64)
  check.equal(conn.node.pid == yue.conn(kvs).node.pid, true)
  check.contains(check.raises('RuntimeError', 'in the node', kvs.fail).msg, 'kvs.lua')
  check.raises('NoMethodError', nil, kvs.nothing)
  check.raises('NoMethodError', nil, kvs._private)
  check.raises('TimeoutError', nil, kvs.timed_sleep, 0.01, 5)
  check.contains(conn:addr(), 'kvs.lua on ' .. carrier.name)
  conn:close()
  check.raises('ConnectionLostError', 'closed', kvs.get, 'frodo')
  if carrier.mode == 'node' then
    nodes.wait_until('the end of a closed node', function() return not nodes.lives(conn.node.pid) end)
  end
end
nodes.wait_until('the end of the thread', function() return yue.thread.count() == 0 end)

-- -- The library ------------------------------------------------------------------------------------------------------

-- A function, a table that it returns, and one that waits.
local fn = yue.nalloc(function()
  function hello(name) return 'hello ' .. name end
  return { bye = function(name) return 'bye ' .. name end }
end)
check.equal(fn.hello('frodo') .. fn.bye('sam'), 'hello frodobye sam')
local waits = 'function f() return 1 end yue.sleep(1000) function g() end'
local waiting = yue.nalloc(nodes.write('waits.lua', waits))
check.equal(waiting.f(), 1)
check.raises('NoMethodError', nil, waiting.g)

local e = check.raises('RuntimeError', 'no way', yue.nalloc, nodes.write('bad.lua', '\nerror "no way"'))
check.contains(e.msg, 'bad.lua:2:')
check.contains(e.bt, 'bad.lua:2:')
check.raises('ArgumentError', 'syntax.lua:1', yue.nalloc, nodes.write('syntax.lua', 'x = = 1'))
check.raises('ArgumentError', 'cannot read the library', yue.nalloc, nodes.place .. '/none.lua')
check.raises('ArgumentError', 'upvalue', yue.nalloc, function() return double end)
check.raises('ArgumentError', 'not a callback', yue.nalloc, nodes.write('names.lua', 'function __acept() end'))
check.raises('ArgumentError', 'is not a file', yue.nalloc, nodes.place)
local table_error = check.raises('RuntimeError', nil, yue.nalloc, nodes.write('table.lua', 'error { 1 }'))
check.that(table_error.msg)

-- A library whose module waits for its owner is still loading.
package.path = nodes.place .. '/?.lua;' .. package.path
nodes.write('first.lua', 'return { value = require("second").value + 1 }')
nodes.write('second.lua', 'return { value = 41 }')
local user = yue.nalloc(nodes.write('user.lua', 'local m = require "first" function value() return m.value end'))
check.equal(user.value(), 42)

-- -- Arguments --------------------------------------------------------------------------------------------------------

for _, case in ipairs {
  { 'there is no option tiemout', nodes.library, { tiemout = 1 } },
  { 'the option timeout is a number above 0', nodes.library, { timeout = 0 } },
  { 'the option timeout is a number above 0, not "5"', nodes.library, { timeout = '5' } },
  { "the option restart is 'now', 'call' or false", nodes.library, { restart = true } },
  { 'the option memory is a number of bytes', nodes.library, { memory = 'much' } },
  { 'the option files is a list', nodes.library, { files = 'map.bin' } },
  { 'the option output is a function, or false', nodes.library, { output = 1 } },
  { 'the library is a file, or a function', nil },
  { 'the library is a file, or a function', 'local', 5 },
  { 'a target, a library and options', 'local', nodes.library, {}, {} },
  { 'options are a table', 'local', nodes.library, 5 },
  { "there is no carrier for 'gopher://x'", 'gopher://x', nodes.library },
  { 'a list of words', { command = 'ls' }, nodes.library, {} },
  { 'has a command or an address', {}, nodes.library, {} },
} do
  check.raises('ArgumentError', case[1], yue.nalloc, unpack(case, 2, table.maxn(case)))
end

-- -- Failures say the stage, the reason and the last lines ------------------------------------------------------------

local function command(text) return { command = { 'sh', '-c', text } } end
e = check.raises('AllocationError', "waiting for the node's first message", yue.nalloc, command 'exit 3', nodes.library)
check.contains(e.msg, 'ended with status 3')
e = check.raises(
  'AllocationError', 'ended with status 1', yue.nalloc, command 'echo the door >&2; echo is shut >&2; exit 1',
  nodes.library, { output = false }
)
check.contains(e.msg, 'Its last lines:\n  the door\n  is shut')
e = check.raises('AllocationError', 'cannot start', yue.nalloc, { command = { '/nowhere/yue' } }, nodes.library)
check.contains(e.msg, 'starting the carrier')
e = check.raises(
  'AllocationError', 'took longer than 0.2 s', yue.nalloc, command 'sleep 100', nodes.library, { timeout = 0.2 }
)
check.contains(e.msg, "waiting for the node's first message")
check.raises('AllocationError', 'killed by signal 9', yue.nalloc, command 'kill -9 $$', nodes.library)
-- A carrier that speaks something else, one that echoes, and one that never stops.
for _, text in ipairs { 'echo nonsense', 'cat', 'yes', 'head -c 100000 /dev/urandom; sleep 100' } do
  check.raises('AllocationError', nil, yue.nalloc, command(text), nodes.library, { timeout = 1, output = false })
end
local spins = nodes.write('spins.lua', 'while true do end')
check.raises('AllocationError', 'loading the library', yue.nalloc, spins, { timeout = 0.5 })
check.raises('AllocationError', 'no target', yue.nalloc, function() end, nodes.library)
check.raises('AllocationError', 'providers only', yue.nalloc, (function()
  local function again() return again end
  return again
end)(), nodes.library)
check.raises('AllocationError', 'no money', yue.nalloc, function() error 'no money' end, nodes.library)

-- A fiber that is stopped while it allocates leaves nothing.
local fiber = yue.spawn(yue.nalloc, command 'exec sleep 777', nodes.library)
yue.sleep(0.05)
fiber:cancel()
check.equal((fiber:sync()), false)

nodes.remove()
check.done()
