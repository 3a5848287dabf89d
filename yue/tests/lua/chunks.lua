--! stderr: a chunk belongs to no open stream
-- An answer above 64 KiB is sent in chunks between two yues: the answers of small calls overtake it.
local check = require 'check'
local raw = require 'raw'
local MEGABYTE = 1024 * 1024
local names = { 'frodo', 'sam', 'merry', 'pippin' }
local called = 0

local symbols = {
  big = function(letter, length) return letter:rep(length), length end,
  list = function(length)
    local list = {}
    for i = 1, length do list[i] = { id = i, name = names[i % 4 + 1] } end
    return list
  end,
  small = function(n) return n + 1 end,
  fail = function() error(('x'):rep(60000) .. 'y', 0) end,
  functions = function()
    return ('f'):rep(200000), function(n) called = called + 1 return n * 2 end
  end,
  ask = function(length) return yue.peer().procs.big('z', length) end,
}
local listener = yue.listen('tcp://127.0.0.1:0', nil, symbols)
local address = listener:addr()
local c = yue.open(address, { no_cache = true }, symbols)

-- Several at once, in both directions, with small calls between them: each comes out whole.
local large = {}
for i, letter in ipairs { 'a', 'b', 'c', 'd' } do large[i] = c.async_big(letter, i * MEGABYTE - 1000) end
local asked = c.async_ask(MEGABYTE)
for n = 1, 50 do check.equal(c.small(n), n + 1) end
for i, letter in ipairs { 'a', 'b', 'c', 'd' } do
  local text, length = large[i]:get()
  check.that(text == letter:rep(i * MEGABYTE - 1000) and length == #text, letter)
end
check.that(asked:get() == ('z'):rep(MEGABYTE))
local list = c.list(20000)
check.equal({ #list, list[20000].id, list[20000].name }, { 20000, 20000, 'frodo' })
local text, double = c.functions()
check.equal({ #text, double(21), called }, { 200000, 42, 1 })

-- A call whose time is over does not hold up the next one, and the connection goes on.
check.raises('TimeoutError', nil, c.timed_big, 0.0001, 'q', 3 * MEGABYTE)
local cancelled = c.async_big('r', 3 * MEGABYTE)
check.equal(c.small(1), 2)
cancelled:cancel()
check.equal(c.small(2), 3)
check.that(c.big('s', 100000) == ('s'):rep(100000))

-- On the wire: a peer that takes chunks asks for much and for little, and gets little first.
local function ask(features)
  local peer = raw.connect(address)
  peer:send('\x94\x00\x00\xaa$yue/hello\x92\x01' .. features
    .. '\x94\x00\x01\xa3big\x92\xa1w\xce\x00\x0f\x42\x40' .. '\x94\x00\x02\xa5small\x91\x29')
  check.eventually(function()
    peer:listen()
    return #peer.heard > 1000000 and peer.heard:find('\x94\x01\x02\xc0\x2a', 1, true)
  end, 'it is answered')
  peer:close()
  return peer.heard:find('\x94\x01\x02\xc0\x2a', 1, true), peer.heard
end
local at, heard = ask('\x81\xa5chunk\xce\x00\x80\x00\x00')
check.contains(heard, '$yue/chunk')
check.that(at < 2 * 65536 + 1000, ('%d bytes came before it'):format(at))
at, heard = ask('\x80')
check.that(at > 1000000 and not heard:find('$yue/chunk', 1, true))

-- A connection that takes none gets answers in the order in which they were made.
local whole = yue.open(address, { no_cache = true, chunks = false }, nil)
check.equal(#whole.big('v', MEGABYTE), MEGABYTE)
check.raises('ArgumentError', 'chunks', yue.open, address, { chunks = 7 }, nil)

-- What is no chunk that was asked for ends its link, and no other.
local bad = raw.connect(address)
bad:send '\x94\x00\x00\xaa$yue/hello\x92\x01\x80\x93\x02\xaa$yue/chunk\x92\x07\xc4\x01x'
check.eventually(function() return bad:listen() end, 'the link ends')
bad:close()
check.equal(c.small(3), 4)
listener:close()
check.done()
