--! stderr: a message is larger than the limit of 1000 bytes
-- listen, open, socket, conn: arguments, options, symbols, addresses.
local check = require 'check'
local listener = yue.listen('tcp://127.0.0.1:0', { f = function() return 'f' end })
local address = listener:addr()
check.that(address:match('^tcp://127%.0%.0%.1:%d+$'), address)
check.that(not address:match(':0$'))
check.equal(yue.server, yue.listen)
check.equal(yue.conn(yue.open(address)).procs.f(), 'f')
check.equal(yue.socket(address), yue.conn(yue.open(address)))
check.contains(tostring(listener), address)
local other = yue.listen('tcp://127.0.0.1:0', { timeout = 1 }, { f = function() return 'other' end })
check.equal(yue.open(other:addr()).f(), 'other')
other:close()
other = yue.listen('tcp://127.0.0.1:0')
check.raises('NoMethodError', nil, yue.open(other:addr()).f)
other.namespace.f = function() return 'now' end
check.equal(yue.open(other:addr()).f(), 'now')
other:close()

-- Unix sockets, IPv6 if there is any
local path = os.tmpname()
os.remove(path)
local unix = yue.listen('unix://' .. path, { f = function() return 'unix' end })
check.equal(yue.open(unix:addr()).f(), 'unix')
unix:close()
check.equal(io.open(path), nil, 'its file is gone')
local fine, six = pcall(yue.listen, 'tcp://[::1]:0', { f = function() return 'six' end })
if fine then
  check.equal(yue.open(six:addr()).f(), 'six')
  six:close()
end

-- A port that is taken, an address that is none
check.raises('AddressError', nil, yue.listen, address, {})
local wrong_addresses = {
  '', 'x', 'tcp://', 'tcp://host', 'tcp://host:x', 'http://x', 'thread://', 'tcp://1.2.3.4:70000',
}
for _, wrong in ipairs(wrong_addresses) do
  check.raises('AddressError', nil, yue.open, wrong)
  check.raises('AddressError', nil, yue.listen, wrong, {})
end

-- Symbols: a table, a file, a list of both; later ones hide earlier ones.
path = os.tmpname()
local file = assert(io.open(path, 'w'))
file:write([[
  function from_file() return 'file' end
  function twice() return 'file' end
  function uses_globals() return tostring(5) .. type(yue) end
  nested = { f = function() return 'nested' end }
  local hidden = 5
  function _private() end
]])
file:close()
local listed = yue.listen('tcp://127.0.0.1:0', { path, { twice = function() return 'table' end }, { {} } })
local c = yue.open(listed:addr())
check.equal({ c.from_file(), c.twice(), c.uses_globals(), c.nested.f() }, { 'file', 'table', '5table', 'nested' })
check.equal(rawget(_G, 'from_file'), nil, 'its globals are its own')
for _, name in ipairs { 'print', 'os.exit', 'io.open', '_private', '_G.print', 'yue.die', 'hidden' } do
  check.raises('NoMethodError', nil, c[name])
end
listed:close()
listed = yue.listen('tcp://127.0.0.1:0', path)
check.equal(yue.open(listed:addr()).from_file(), 'file')
listed:close()
os.remove(path)
check.raises('ArgumentError', 'cannot load', yue.listen, 'tcp://127.0.0.1:0', '/no/such/file.lua')

-- Other options give another connection; the same ones share it.
local slow = yue.listen('tcp://127.0.0.1:0', { slow = function() yue.sleep(0.3) return 'slow' end })
local patient, hasty = yue.open(slow:addr()), yue.open(slow:addr(), { timeout = 0.05 }, nil)
check.that(patient ~= hasty)
check.equal(hasty, yue.open(slow:addr(), { timeout = 0.05 }, nil))
check.equal(patient, yue.open(slow:addr(), {}, nil))
check.equal(patient, yue.open(slow:addr(), { no_cache = false }, nil))
check.that(hasty ~= yue.open(slow:addr(), { timeout = 0.05, message_max = 1000 }, nil))
check.raises('TimeoutError', nil, hasty.slow)
check.equal(patient.slow(), 'slow')
yue.conn(hasty):close()
local anew = yue.open(slow:addr(), { timeout = 0.05 }, nil)
check.that(anew ~= hasty)
check.raises('TimeoutError', nil, anew.slow)
check.equal(patient.slow(), 'slow')
slow:close()

-- Two arguments: the second is symbols. What can only be options is told so.
for _, call in ipairs { yue.listen, yue.open, yue.socket } do
  check.raises('ArgumentError', 'options', call, address, { timeout = 5 })
  check.raises('ArgumentError', 'options', call, address, { timeout = 5, no_cache = true })
  check.raises('ArgumentError', 'options are a table', call, address, 5, {})
  check.raises('ArgumentError', 'no option nonsense', call, address, { nonsense = 5 }, {})
  check.raises('ArgumentError', 'symbols', call, 'tcp://127.0.0.1:0', 5)
  check.raises('ArgumentError', 'symbols', call, 'tcp://127.0.0.1:0', nil, print)
  check.raises('ArgumentError', 'symbols', call, 'tcp://127.0.0.1:0', { 'no/such', 5 })
  check.raises('ArgumentError', 'address', call)
  check.raises('ArgumentError', 'address', call, 5)
  check.raises('ArgumentError', 'address', call, {})
  check.raises('ArgumentError', nil, call, address, {}, {}, {})
  for _, option in ipairs {
    'timeout', 'message_max', 'nesting_max', 'in_flight_max', 'held_max', 'output_high', 'references_max',
    'handshake_timeout',
  } do
    for _, wrong in ipairs { 'x', 0, -1, 0 / 0, true, {} } do
      check.raises('ArgumentError', option, call, address, { [option] = wrong }, {})
    end
  end
  for _, option in ipairs { 'no_cache', 'retry', 'reconnect', 'legacy' } do
    check.raises('ArgumentError', option, call, address, { [option] = 1 }, {})
  end
end
check.raises('ArgumentError', 'lists', yue.listen, 'tcp://127.0.0.1:0', (function()
  local list = {}
  list[1] = list
  return list
end)())
local by_name = yue.listen('tcp://127.0.0.1:0', { timeout = function() return 'a symbol of that name' end })
check.equal(yue.open(by_name:addr()).timeout(), 'a symbol of that name')
by_name:close()

-- Limits, each exceeded while another connection keeps working
local limits = yue.listen('tcp://127.0.0.1:0', { message_max = 1000, nesting_max = 5, in_flight_max = 4 }, {
  echo = function(...) return ... end,
  sleep = function(s) yue.sleep(s) return s end,
})
local d = yue.open(limits:addr(), { no_cache = true }, nil)
local steady = yue.open(limits:addr(), { no_cache = true }, nil)
check.equal(d.echo('x'), 'x')
check.raises('MessageRefusedError', nil, d.echo, ('x'):rep(2000))
-- What is nested too deep cannot even be told from garbage: the connection is closed, and made again.
check.raises('Error', nil, d.echo, { { { { { { { 1 } } } } } } })
check.equal(d.echo('again'), 'again')
local futures, busy = {}, 0
for i = 1, 20 do futures[i] = d.async_sleep(0.05) end
for i = 1, 20 do
  local ok, e = futures[i]:sync()
  if not ok then
    busy = busy + 1
    check.that(e:is_a('ServerBusyError') and e.retryable, tostring(e))
  end
end
check.that(busy >= 10, busy .. ' were refused')
check.equal(steady.echo('steady'), 'steady')
limits:close()
local small = yue.open(address, { message_max = 1000 }, {})
check.raises('MessageTooLargeError', nil, small.f, ('x'):rep(2000))
check.equal(small.f(), 'f')
yue.conn(small):close()
-- Held calls have a limit too.
local held = yue.open('tcp://127.0.0.1:1', { held_max = 1000, retry = true, timeout = 60 }, {})
local waiting = held.async_f('x')
check.raises('Error', nil, held.timed_f, 60, ('x'):rep(2000))
waiting:cancel()
waiting:sync()
yue.conn(held):close()

-- An option of the other side would have no effect.
for name, value in pairs { connections_max = 5, handlers_max = 5, memory_max = 5, origins = { '*' }, peer_idle = 5 } do
  check.raises('ArgumentError', name .. ' is for yue.listen', yue.open, listener:addr(), { [name] = value }, nil)
end
for _, name in ipairs { 'no_cache', 'retry', 'reconnect', 'legacy' } do
  check.raises('ArgumentError', name .. ' is for yue.open', yue.listen, 'tcp://127.0.0.1:0', { [name] = true }, {})
end

check.raises('ArgumentError', 'yue.conn', yue.conn)
check.raises('ArgumentError', 'yue.conn', yue.conn, {})
check.raises('ArgumentError', 'yue.conn', yue.conn, 'x')
check.raises('ArgumentError', 'symbols', listener.import, listener, 5)
listener:close()
listener:close()
check.raises('ConnectionLostError', nil, yue.open(address).f)
check.equal(listener:addr(), address)
check.done()
