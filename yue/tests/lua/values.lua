-- What travels, and how it arrives.
local check = require 'check'
local ffi = require 'ffi'
local c, listener = check.pair {
  echo = function(...) return ... end,
  kind = function(x) return type(x) end,
  length = function(x) return #x end,
}
local cyclic = {}
cyclic.self = cyclic

for _, value in ipairs {
  true, false, 0, 1, -1, 127, 128, -32, -33, 255, 256, 65535, 65536, 2 ^ 31, 2 ^ 32, 2 ^ 53, -2 ^ 53, 0.5, -0.25, 1e300,
  math.huge, -math.huge, '', 'text', 'ümläut', '\0\255\128', ('x'):rep(70000), {}, { 1, 2, 3 },
  { a = 1, b = { c = 'd' } },
  { 1, 2, key = 'mixed' }, { [5] = 'sparse' }, { [1.5] = 'float key', [true] = 'boolean key' },
} do
  check.equal(c.echo(value), value)
end
local nan = c.echo(0 / 0)
check.that(nan ~= nan)
check.equal(1 / c.echo(-0.0), -math.huge, 'minus zero')
local holes = c.echo({ 1, nil, 3 })
check.that(holes[1] == 1 and holes[3] == 3)
check.equal(c.echo(ffi.new('int64_t', 5)), 5)
check.equal(c.echo(ffi.new('uint64_t', -1)) == ffi.new('uint64_t', -1), true)
check.equal(c.kind(ffi.new('int64_t', 2) ^ 62), 'cdata')
check.equal(getmetatable(yue.map {}) ~= nil, true)
check.equal(c.echo(yue.map { 1, 2 }), { 1, 2 })

-- Huge
local huge = ('0123456789'):rep(400000)
check.equal(c.length(huge), #huge)
check.that(c.echo(huge) == huge)
local list = {}
for i = 1, 100000 do list[i] = i end
check.equal(#c.echo(list), 100000)
check.raises('MessageTooLargeError', nil, c.echo, ('x'):rep(80 * 1024 * 1024))
check.equal(c.echo('still works'), 'still works')

-- What cannot travel is refused where it is, with its place.
for _, wrong in ipairs { coroutine.create(print), io.stdout, ffi.new('struct { int x; }'), cyclic } do
  check.raises('ArgumentError', nil, c.echo, wrong)
  check.raises('ArgumentError', nil, c.echo, 1, { deep = { wrong } })
end
local e = check.raises('ArgumentError', 'args', c.echo, 1, { deep = { coroutine.create(print) } })
check.contains(e.msg, 'deep')
local deep = {}
for _ = 1, 1000 do deep = { deep } end
check.raises('ArgumentError', nil, c.echo, deep)
check.equal(c.echo('fine'), 'fine')

-- Metatables stay at home, and run nothing.
local guarded = setmetatable({ 1 }, { __index = function() error('never') end, __len = function() error('never') end })
check.equal(c.echo(guarded), { 1 })
check.raises('ArgumentError', 'table', yue.map, 5)
check.raises('ArgumentError', 'table', yue.map)
listener:close()
check.done()
