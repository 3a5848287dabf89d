--! stderr: was released: nothing refers to it any more
-- The ends of nodes: closed, collected, killed, restarted; and their output.
local yue = require 'yue'
local check = require 'check'
local nodes = require 'nodes'
local SIGKILL = 9

local function pid(procs) return yue.conn(procs).node.pid end

local function is_gone(number)
  nodes.wait_until('the end of a node', function() return not nodes.lives(number) end)
end

local function kill(number, signal)
  yue.process.run { 'kill', '-' .. (signal or SIGKILL), tostring(number) }
end

-- A killed node fails the calls in flight with the reason, and its children end with it.
local node = yue.nalloc(nodes.library, { output = false })
local child = node.child()
check.that(nodes.lives(child))
local sleeping = node.async_sleep(100)
yue.sleep(0.01)
local first = pid(node)
kill(first)
local ok, e = sleeping:sync()
check.equal({ ok, e.type, e.retryable }, { false, 'ConnectionLostError', false })
check.contains(e.msg, 'node 1 (kvs.lua on this machine) was killed by signal 9')
is_gone(first)
is_gone(child)
check.raises('ConnectionLostError', 'was killed by signal 9', node.get, 1)

-- A node whose program ends by itself says with which status.
node = yue.nalloc(nodes.library, { output = false })
e = check.raises('ConnectionLostError', 'ended with status 3', node.leave, 3)

-- Closed: also while its loop computes and hears nothing, and its children with it.
node = yue.nalloc(nodes.library)
child, first = node.child(), pid(node)
yue.conn(node):close()
is_gone(first)
is_gone(child)

-- A handler that runs may finish, here and behind a command.
for i, target in ipairs { 'local', { command = { yue.node.binary, 'node' } } } do
  local path = nodes.place .. '/finished' .. i
  node = yue.nalloc(target, nodes.library)
  first = pid(node)
  node.notify_finish(path)
  node.get 'x' -- The notification has arrived.
  yue.conn(node):close()
  is_gone(first)
  check.equal(yue.fs.read(path), 'finished')
end

-- Collected: in a function of its own, whose registers are gone.
local function lose()
  local lost = yue.nalloc(nodes.library)
  return pid(lost)
end
first = lose()
nodes.wait_until('the collection of a node', function()
  collectgarbage()
  return not nodes.lives(first)
end)

-- restart = 'call': the next call allocates again, and init comes before it.
local epochs = {}
node = yue.nalloc(nodes.library, {
  restart = 'call', output = false,
  init = function(procs)
    procs.put('restored', true)
    epochs[#epochs + 1] = select(3, procs.me())
  end,
})
first = pid(node)
kill(first)
is_gone(first)
nodes.wait_until('the loss', function() return not yue.conn(node):connected() end)
check.equal(node.get('restored'), true)
check.equal(epochs, { 1, 2 })
check.that(pid(node) ~= first)
check.equal(yue.conn(node).node.epoch, 2)
yue.conn(node):close()
check.raises('ConnectionLostError', 'closed', node.get, 'restored')

-- restart = 'now': without a call; a node that keeps ending is lost.
node = yue.nalloc(nodes.library, { restart = 'now', output = false })
for epoch = 2, 6 do
  first = pid(node)
  kill(first)
  nodes.wait_until('another node', function()
    local now = yue.conn(node).node
    return now.epoch == epoch and yue.conn(node):connected()
  end)
  check.that(pid(node) ~= first)
end
kill(pid(node))
nodes.wait_until('the loss for good', function()
  local ok, e = pcall(node.timed_get, 1, 'x')
  return not ok and e.msg:find('restarted 5 times', 1, true)
end)

-- A node that cannot load its library again is no endless loop, and its owner is told.
local broken = nodes.write('twice.lua', [[
if yue.fs.exists(os.getenv 'MARK') then error 'only once' end
yue.fs.write(os.getenv 'MARK', 'x')
function f() return 1 end
]])
node = yue.nalloc(broken, { restart = 'call', env = { MARK = nodes.place .. '/mark' }, output = false })
check.equal(node.f(), 1)
kill(pid(node))
nodes.wait_until('the loss', function() return not yue.conn(node):connected() end)
check.raises('NotGrantedError', nil, node.f)

-- Output: a function, the environment and the folder.
local lines = {}
node = yue.nalloc(nodes.write('output.lua', [[
print(os.getenv 'COLOR', os.getenv 'HOME')
io.stderr:write 'on stderr\n'
function here() return yue.fs.exists 'output.lua' end
]]), {
  output = function(line) lines[#lines + 1] = line end,
  env = { COLOR = 'green', HOME = false },
  directory = nodes.place,
})
nodes.wait_until('two lines', function() return #lines == 2 end)
check.equal(lines, { 'green\tnil', 'on stderr' })
check.equal(node.here(), true)

-- A flood: the call is answered, and not all lines are passed on.
lines = {}
node = yue.nalloc(nodes.library, { output = function(line) lines[#lines + 1] = line end })
check.equal(node.timed_flood(60, 200000), 200000)
check.equal(node.get('x'), nil)
nodes.wait_until('the flood', function() return #lines >= 1000 end)
check.that(#lines < 100000)

-- Many at once.
local all = {}
for i = 1, 20 do all[i] = yue.spawn(yue.nalloc, nodes.library) end
for i, one in ipairs(all) do
  all[i] = one:get()
  all[i].put('i', i)
end
for i, one in ipairs(all) do
  check.equal(one.get('i'), i)
  first = pid(one)
  yue.conn(one):close()
end
is_gone(first)

-- Nothing of them is left at the owner.
local function descriptors() return #yue.fs.list '/proc/self/fd' end
collectgarbage()
collectgarbage()
yue.sleep(0.1)
local before = descriptors()
for _ = 1, 10 do
  local one = yue.nalloc(nodes.library)
  yue.conn(one):close()
  is_gone(pid(one))
  pcall(yue.nalloc, { command = { 'false' } }, nodes.library)
end
nodes.wait_until('the end of all descriptors', function() return descriptors() <= before end)

-- What is allocated in a client ends with it.
ok = yue.client(function()
  local inside = yue.nalloc(nodes.library)
  first = pid(inside)
  return true
end)
check.equal(ok, true)
is_gone(first)

nodes.remove()
check.done()
