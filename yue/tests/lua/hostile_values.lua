--! stderr: the handler of raise failed, called by tcp://127.0.0.1:
-- Values from a hostile peer: each is an error of that one call, and the connection continues.
local check = require 'check'
local bit, ffi = require 'bit', require 'ffi'

-- Numbers that all have one hash in LuaJIT.
local function colliding(count)
  local number = ffi.new('union { double number; uint32_t half[2]; }')
  local keys, low = {}, 0
  while #keys < count do
    low = low + 1
    local high = bit.bxor(low, bit.tobit(0x12345678 + bit.rol(low, 13)))
    local doubled = bit.ror(bit.ror(high, 5), 14)
    number.half[1] = bit.rshift(doubled, 1)
    number.half[0] = bit.bxor(bit.tobit(low + bit.rol(doubled, 14)), doubled)
    local finite = bit.band(bit.rshift(doubled, 21), 0x7ff) ~= 0x7ff
    if bit.band(doubled, 1) == 0 and finite then keys[#keys + 1] = number.number end
  end
  return keys
end

local crowded = {}
for _, key in ipairs(colliding(2000)) do crowded[key] = true end

local accepted = {}
local c, listener = check.pair({
  size = function(t) local n = 0 for _ in pairs(t) do n = n + 1 end return n end,
  crowded = function() return crowded end,
  raise = function() error { crowded = crowded } end,
  peer = function() return pcall(yue.peer().procs.crowded) end,
}, { crowded = function() return crowded end })
check.equal(c.size { a = 1, [5] = 2, [1.5] = 3 }, 3)
check.raises('ArgumentError', 'collides with too many', c.size, crowded)
check.raises('ArgumentError', 'collides with too many', c.size, { deep = { { crowded } } })
check.raises('RPCError', 'collides with too many', c.crowded)
local future = c.async_crowded()
check.raises('RPCError', 'collides with too many', function() return future:get() end)
local e = check.raises('RuntimeError', 'cannot be read here', c.raise)
check.equal(e.value, nil)
local ok, failure = c.peer()
check.equal(ok, false)
check.contains(failure.msg, 'collides with too many')
check.equal(c.size { 1, 2 }, 2)

-- What __accept grants is decoded by the client.
local granting = yue.listen('tcp://127.0.0.1:0', { __accept = function() return crowded end, f = function() end })
local granted = yue.open(granting:addr(), { reconnect = false }, { __accept = function() accepted[1] = true end })
check.that(not pcall(granted.timed_f, 5))
check.equal(accepted[1], nil)

-- Memory: what values become is limited to eight times the largest message, or as the options say.
local small = yue.listen('tcp://127.0.0.1:0', { decoded_max = 50000 }, { count = function(t) return #t end })
local d = yue.open(small:addr(), { no_cache = true }, nil)
local empty = {}
for i = 1, 500 do empty[i] = {} end
check.equal(d.count(empty), 500)
for i = 1, 2000 do empty[i] = {} end
check.raises('ArgumentError', 'more than 50000 bytes of memory', d.count, empty)
check.equal(d.count { 1 }, 1)

-- Nesting: one limit on either side, that of a value.
local function nested(levels)
  local t = {}
  for _ = 2, levels do t = { t } end
  return t
end
local deep = yue.listen('tcp://127.0.0.1:0', { nesting_max = 300 }, {
  depth = function(t) local n = 1 while t[1] do n, t = n + 1, t[1] end return n end,
  nested = nested,
})
local far = yue.open(deep:addr(), { nesting_max = 250, no_cache = true }, nil)
check.equal(far.depth(nested(200)), 200)
check.equal(far.depth(far.nested(200)), 200)
e = check.raises('ArgumentError', 'args[1][1][1]', far.depth, nested(251))
check.contains(e.msg, 'deeper than 250 levels')
check.raises('ServerError', 'deeper than 300 levels', far.nested, 301)
check.equal(far.depth({}), 1)
check.raises('ArgumentError', 'deeper than 128 levels', c.size, nested(129))
for _, l in ipairs { listener, granting, small, deep } do l:close() end
check.done()
