-- The server of most tests: at TCP and WebSocket on one port, or at the addresses in the arguments. It prints its
-- addresses, and ends with its standard input.
local yue = require 'yue'
yue.config.timeout = 60 -- machines are busy
local ffi = require 'ffi'

local kept = {}
local started = {}
local symbols = {}

-- Calls and results.
function symbols.echo(...) return ... end
function symbols.count(...) return select('#', ...) end
function symbols.nothing() end
function symbols.many(n)
  local all = {}
  for i = 1, n do all[i] = i end
  return unpack(all, 1, n)
end
---@param a number
---@param b number
---@return number
function symbols.add(a, b) return a + b end
symbols.deep = { er = { est = function(x) return 'deepest ' .. x end } }
symbols['then'] = function() return 'then' end
symbols.async_name = function() return 'the real async_name' end
symbols.timed_notify_name = function() return 'the real timed_notify_name' end

-- Values.
function symbols.kind(x) return ('%s %s'):format(type(x), tostring(x)) end
function symbols.big() return ffi.new('uint64_t', 2) ^ 63, ffi.new('int64_t', -5) end
function symbols.bytes() return '\0\255\254' end
function symbols.holes(t) return t[1] == 1 and t[2] == nil and t[3] == 3 end
function symbols.keys() return { [5] = 'five', ten = 10 }, { [true] = 'yes' } end
function symbols.proto() return { ['__proto__'] = { polluted = true } } end
function symbols.nested(levels)
  local value = {}
  for _ = 2, levels do value = { value } end
  return value
end
function symbols.text(n) return ('x'):rep(n) end

-- Errors.
function symbols.fail(text) error(text, 0) end
function symbols.fail_with(value) error(value) end
function symbols.fail_typed() error(yue.errors.ArgumentError.new('a number is needed', { position = 1 })) end
function symbols.fail_here() error 'with file and line' end

-- Time.
function symbols.nap(seconds) yue.sleep(seconds) return 'rested' end
function symbols.left() return yue.deadline() end
function symbols.block(name)
  started[name] = 'started'
  local ok, e = pcall(yue.sleep, 60)
  started[name] = ok and 'done' or e.type
  if not ok then error(e, 0) end
end
function symbols.state(name) return started[name] end

-- Calls back.
function symbols.ask(name, ...) return yue.peer().procs['=' .. name](...) end
function symbols.try(name, ...)
  local ok, e = pcall(yue.peer().procs['=' .. name], ...)
  if ok then return 'ok', e end
  return e.type, e.msg, e.value, e.retryable
end
function symbols.tell(name, ...) return yue.peer().procs['notify_' .. name](...) end
function symbols.describe_me()
  local names = {}
  for _, f in ipairs(yue.peer():describe()) do names[#names + 1] = f.name end
  return names
end

-- Functions as values.
function symbols.call(f, ...) return f(...) end
function symbols.try_call(f, ...)
  local ok, e = pcall(f, ...)
  return ok and 'ok' or e.type, e.msg
end
function symbols.make(x) return function(y) return x .. y end end
function symbols.same(f, g) return f == g, f end
function symbols.in_tables(t) return t.list[1](1) + t.list[2](2) end
function symbols.keep(name, f) kept[name] = f end
function symbols.use(name, ...) return kept[name](...) end
function symbols.drop() kept = {} collectgarbage() end
function symbols.held() collectgarbage() return yue.peer():stats().functions_held end

-- Order, groups, and the latest state.
local lists = setmetatable({}, { __mode = 'k' })
local everything = {}
function symbols.append(x)
  local list = lists[yue.peer()] or {}
  lists[yue.peer()] = list
  list[#list + 1], everything[#everything + 1] = x, x
end
function symbols.appended() return lists[yue.peer()] or everything end
local room = yue.group()
function symbols.enter() room:join(yue.peer()) end
function symbols.say(text) room.notify_said(text) end
function symbols.latest(name, ...) return yue.peer():latest('key', name, ...) end

-- The end of a connection.
function symbols.hang_up(reason) yue.peer():close(reason) end

local addresses = #arg > 0 and arg or { 'tcp://127.0.0.1:0' }
for _, address in ipairs(addresses) do
  local options = { cancel = true }
  if address:match '^tls' or address:match '^wss' then options.cert, options.key = os.getenv 'CERT', os.getenv 'KEY' end
  if address:match '^tcp' then options.ws = true end
  if options.ws and os.getenv 'ORIGINS' then options.origins = { os.getenv 'ORIGINS' } end
  print(yue.listen(address, options, symbols):addr())
end
io.stdout:flush()
io.read '*a'
os.exit(0)
