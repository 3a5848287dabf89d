-- The sockets under connections: files of Unix sockets, and probes that notice a peer that is gone.
local check = require 'check'
local path = os.tmpname()
os.remove(path)

local function exists(name)
  return os.rename(name, name) ~= nil
end

local symbols = { ping = function() return 'pong' end }
local function listen(at)
  return yue.listen('unix://' .. at, symbols)
end

local l = listen(path)
check.that(exists(path))
check.raises('AddressError', 'another listens there', listen, path)
check.equal(yue.open('unix://' .. path).ping(), 'pong')
l:close()
check.that(not exists(path), 'it goes with the listener')

-- One that is left behind, as by a process that was killed, is replaced.
local left = path .. '-left'
l = listen(path)
os.rename(path, left)
l:close()
check.that(exists(left))
-- The socket is closed a moment after the listener is.
local second
check.eventually(function()
  local ok, listener = pcall(listen, left)
  second = ok and listener
  return second
end, 'it is replaced')
check.equal(yue.open('unix://' .. left, { no_cache = true }, nil).ping(), 'pong')
second:close()
check.that(not exists(left))

-- Another file is not.
local file = assert(io.open(path, 'w'))
file:write 'precious'
file:close()
check.raises('AddressError', 'not a socket', listen, path)
check.equal(assert(io.open(path)):read '*a', 'precious')
os.remove(path)

-- TCP: whether the kernel's timer for probes runs, on either side of the connection.
local function probed(port)
  local found = {}
  for line in io.lines '/proc/net/tcp' do
    local here, there, state, timer = line:match '%x+:(%x+) %x+:(%x+) (%x+) %x+:%x+ (%x+):'
    if state == '01' then
      -- At the moment another timer may run: bytes are under way.
      if tonumber(here, 16) == port then found.server = timer end
      if tonumber(there, 16) == port then found.client = timer end
    end
  end
  return found.server, found.client
end

for _, case in ipairs { { nil, '02' }, { 10, '02' }, { false, '00' } } do
  local options = { keepalive = case[1], no_cache = true }
  local listener = yue.listen('tcp://127.0.0.1:0', { keepalive = case[1] }, symbols)
  local port = tonumber(listener:addr():match '%d+$')
  local c = yue.open(listener:addr(), options, nil)
  check.equal(c.ping(), 'pong')
  check.eventually(function()
    local server, client = probed(port)
    return server == case[2] and client == case[2]
  end, 'keepalive ' .. tostring(case[1]))
  listener:close()
end
for _, keepalive in ipairs { true, 0, -1, '5' } do
  local text = 'keepalive is a number above 0 or false'
  check.raises('ArgumentError', text, yue.listen, 'tcp://127.0.0.1:0', { keepalive = keepalive }, {})
end
check.done()
