-- Cryptography: published vectors, errors, and that hashing passwords lets the loop continue.
local check = require 'check'
local crypto = yue.crypto
local hex = crypto.hex

-- FIPS 180-4, and RFC 4231.
check.equal(hex(crypto.sha256 ''), 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855')
check.equal(hex(crypto.sha256 'abc'), 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
check.equal(hex(crypto.sha256(('a'):rep(1000000))), 'cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0')
check.equal(hex(crypto.hmac(('\x0b'):rep(20), 'Hi There')),
  'b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7')
check.equal(hex(crypto.hmac(('\xaa'):rep(131), 'Test Using Larger Than Block-Size Key - Hash Key First')),
  '60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54')

-- RFC 4648
for text, coded in pairs {
  [''] = '', f = 'Zg==', fo = 'Zm8=', foo = 'Zm9v', foob = 'Zm9vYg==', ['\255\239'] = '/+8=',
} do
  check.equal(crypto.base64(text), coded)
  check.equal(crypto.base64_decode(coded), text)
  check.equal(crypto.base64_decode((coded:gsub('=', ''))), text)
end
check.equal(crypto.base64('\255\239', 'url'), '_-8')
check.equal(crypto.base64_decode('_-8', 'url'), '\255\239')
check.equal(crypto.base64_decode('_-8=', 'url'), '\255\239')
for _, wrong in ipairs { '_-8', 'Z', 'Zm9v!', 'Zm 9v', 'Zh==', '====' } do
  check.raises('ArgumentError', 'not base64', crypto.base64_decode, wrong)
end
check.raises('ArgumentError', "'url'", crypto.base64, 'x', 'URL')

check.equal(hex '\0\16\255', '0010ff')
check.equal(crypto.hex_decode '0010fF', '\0\16\255')
check.equal(crypto.hex_decode '', '')
check.raises('ArgumentError', 'length is odd', crypto.hex_decode, 'abc')
check.raises('ArgumentError', 'byte 3 is not a digit', crypto.hex_decode, '00x0')

check.equal(crypto.random(0), '')
check.equal(#crypto.random(1000), 1000)
check.that(crypto.random(16) ~= crypto.random(16))
for _, wrong in ipairs { -1, 0.5, 2 ^ 25, 'x', 0 / 0, {} } do
  check.raises('ArgumentError', 'number of bytes', crypto.random, wrong)
end

check.equal(crypto.equal('', ''), true)
check.equal(crypto.equal('secret', 'secret'), true)
check.equal(crypto.equal('secret', 'secreT'), false)
check.equal(crypto.equal('secret', 'secret '), false)

-- -- Passwords

local turns, stop = 0, false
local other = yue.spawn(function() while not stop do turns = turns + 1 yue.yield() end end)
local hash = crypto.password_hash 'correct horse'
check.that(turns > 10, 'other fibers run meanwhile')
stop = true
other:get()
check.that(hash:find '^%$argon2id%$v=19%$m=19456,t=2,p=1%$', hash)
check.equal(crypto.password_verify(hash, 'correct horse'), true)
check.equal(crypto.password_verify(hash, 'Correct horse'), false)
check.equal(crypto.password_verify(hash, ''), false)
check.that(crypto.password_hash 'correct horse' ~= hash, 'each has its own salt')
check.equal(crypto.password_verify(crypto.password_hash '\0\255', '\0\255'), true)

-- A hash of another program, with a lower cost: its parameters are those that count.
local foreign = '$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc'
check.equal(crypto.password_verify(foreign, 'password'), true)
check.equal(crypto.password_verify(foreign, 'Password'), false)

-- Many at once wait for each other.
local fibers = {}
for i = 1, 12 do fibers[i] = yue.spawn(crypto.password_verify, hash, i == 7 and 'correct horse' or 'wrong') end
for i = 1, 12 do check.equal(fibers[i]:get(), i == 7) end
local cancelled = yue.spawn(crypto.password_hash, 'x')
yue.yield()
cancelled:cancel()
check.raises('CancelledError', nil, cancelled.get, cancelled)
check.raises('TimeoutError', nil, yue.timeout, 0, crypto.password_hash, 'x')
check.equal(crypto.password_verify(hash, 'correct horse'), true, 'a cancelled one returns its permit')

for _, wrong in ipairs { '', 'x', '$argon2id$', '$2b$12$abcdefghijklmnopqrstuv', '\255' } do
  check.raises('ArgumentError', 'not a hash', crypto.password_verify, wrong, 'x')
end
check.raises('ArgumentError', 'too expensive', crypto.password_verify, (hash:gsub('m=19456', 'm=4000000')), 'x')
check.raises('ArgumentError', 'too expensive', crypto.password_verify, (hash:gsub('t=2', 't=1000000')), 'x')

for _, name in ipairs { 'sha256', 'base64', 'base64_decode', 'hex', 'hex_decode', 'password_hash' } do
  check.raises('ArgumentError', 'yue.crypto.' .. name .. ' takes a string', crypto[name], 5)
  check.raises('ArgumentError', 'not nil', crypto[name])
end
for _, name in ipairs { 'hmac', 'equal', 'password_verify' } do
  check.raises('ArgumentError', 'takes a string', crypto[name], 'x')
end
check.done()
