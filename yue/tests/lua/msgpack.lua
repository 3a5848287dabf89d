-- Msgpack by itself: the values of the wire, without a connection.
local check = require 'check'
local ffi = require 'ffi'
local encode, decode = yue.msgpack.encode, yue.msgpack.decode

check.equal(yue.ffi, ffi)
for _, value in ipairs {
  true, false, 0, -1, 2 ^ 53, 0.5, '', 'text', '\0\255', {}, { 1, 2, { 3 } }, { a = { b = 'c' } }, { [1.5] = true },
} do
  check.equal(decode(encode(value)), value)
end
check.equal(encode(1, 'a', { true }), '\1\xa1a\x91\xc3')
check.equal({ decode(encode(1, nil, 'x', { 2 })) }, { 1, nil, 'x', { 2 } })
check.equal(select('#', decode(encode(nil, nil))), 2)
check.equal(select('#', decode ''), 0)
check.equal(encode(), '')
check.equal(encode { yue.null, 1 }, '\x92\xc0\1')
check.equal(encode(yue.map {}), '\x80')
check.equal(encode(yue.array { 1, nil, 3 }), '\x93\1\xc0\3')
check.equal(decode(encode(ffi.new('int64_t', 5))), 5)
check.equal(type(decode(encode(ffi.new('int64_t', 2) ^ 62))), 'cdata')
local big = ('x'):rep(1e6)
check.equal(decode(encode(big, big)), big)
local many = {}
for i = 1, 4000 do many[i] = i end
check.equal(select('#', decode(encode(unpack(many)))), 4000)
check.raises('ArgumentError', 'side by side', decode, ('\1'):rep(4001))

-- Errors
check.raises('ArgumentError', 'args[2].f: a function has no form in msgpack', encode, 1, { f = print })
check.raises('ArgumentError', 'args[1]: a coroutine', encode, coroutine.create(print))
check.raises('ArgumentError', "args[1]: an object of yue's", encode, yue.event())
local cyclic = {}
cyclic[1] = cyclic
check.raises('ArgumentError', 'contains itself', encode, cyclic)
for text, part in pairs {
  ['\xc1'] = 'begins no value', ['\x92\1'] = 'ends in the middle', ['\xdd\255\255\255\255'] = 'ends in the middle',
  [('\x91'):rep(200) .. '\1'] = 'deeper than 128 levels', ['\x81\xc0\1'] = 'nil or NaN', ['\1\xa5abc'] = 'byte 1',
} do
  check.raises('ArgumentError', part, decode, text)
end
check.raises('ArgumentError', 'takes a string', decode, 5)
check.raises('ArgumentError', 'takes a string', decode)

-- Memory: eight times the bytes, and 32 MiB at least.
check.raises('ArgumentError', 'bytes of memory', decode, '\xdd\0\16\0\0' .. ('\x90'):rep(2 ^ 20))
check.equal(#decode('\xdd\0\1\0\0' .. ('\x90'):rep(2 ^ 16)), 2 ^ 16)
check.done()
