-- A folder with a library and its modules, for tests of nodes, and how to look whether a process lives.
local nodes = {}

local place = os.tmpname()
os.remove(place)
yue.fs.mkdir(place)
nodes.place = place

--- Writes a file in the folder; returns its path.
function nodes.write(name, text)
  local path = place .. '/' .. name
  local file = assert(io.open(path, 'w'))
  file:write(text)
  file:close()
  return path
end

function nodes.remove()
  os.execute("rm -rf '" .. place .. "'")
end

--- Waits until the condition holds; fails after ten seconds.
function nodes.wait_until(what, is_true)
  local ends = yue.now() + 10
  while not is_true() do
    if yue.now() > ends then error('in vain waited for: ' .. what, 2) end
    yue.sleep(0.005)
  end
end

--- Whether the process exists and is no zombie.
function nodes.lives(pid)
  local status = io.open(('/proc/%d/stat'):format(pid))
  if not status then return false end
  local text = status:read '*a' or ''
  status:close()
  local state = text:match '%) (%a)'
  return state ~= nil and state ~= 'Z' and state ~= 'X'
end

nodes.library = nodes.write('kvs.lua', [[
local store = {}
function put(key, value) store[key] = value end
function get(key) return store[key] end
function me() return yue.node.id, yue.node.target, yue.node.epoch, yue.mode end
function ask(x) return yue.node.owner.double(x) end
function ask_peer(x) return yue.peer().procs.double(x) end
function call(f, x) return f(x) end
function fail() error('in the node') end
function say(text) print(text) end
function flood(count) for i = 1, count do print('line', i) end return count end
function load_module(name) return require(name).value end
function try_module(name) return pcall(require, name) end
function path_of(name) return yue.file(name) end
function read(name) return yue.fs.read(yue.file(name)) end
function child() return yue.process.spawn { 'sleep', '1000', stdin = 'null', stdout = 'null' }.pid end
function leave(result) os.exit(result) end
function sleep(seconds) yue.sleep(seconds) return seconds end
function spin() while true do end end
function finish(path) yue.sleep(0.2) yue.fs.write(path, 'finished') end
function _private() return 1 end
]])

return nodes
