-- JSON: what values become and back, styles, errors with paths and positions, hostile texts.
local check = require 'check'
local ffi = require 'ffi'
local encode, decode = yue.json.encode, yue.json.decode

-- -- Both ways

for text, value in pairs {
  ['true'] = true, ['false'] = false, ['0'] = 0, ['-1'] = -1, ['9007199254740992'] = 2 ^ 53,
  ['-9007199254740992'] = -2 ^ 53, ['0.1'] = 0.1, ['1e+300'] = 1e300, ['-2.5e-8'] = -2.5e-8, ['5e-324'] = 5e-324,
  ['1.7976931348623157e+308'] = 1.7976931348623157e308, ['123456.789'] = 123456.789, ['""'] = '',
  ['"text"'] = 'text', ['"ümläut 😀"'] = 'ümläut 😀', ['"\\"\\\\/\\b\\f\\n\\r\\t"'] = '"\\/\b\f\n\r\t',
  ['"\\u0000\\u001f\127"'] = '\0\31\127', ['[]'] = {}, ['[1,[2,[]],{}]'] = { 1, { 2, {} }, {} },
  ['{"a":{"b":[true,false]}}'] = { a = { b = { true, false } } },
} do
  check.equal(decode(text), value, text)
  local again = encode(decode(text))
  check.equal(decode(again), value, text)
  if not text:find 'e' then check.equal(again, text) end
end
check.equal(1 / decode '-0', -math.huge)
check.equal(1 / decode(encode(-0.0)), -math.huge)
for i = 1, 2000 do
  local number = math.sin(i) * 10 ^ (i % 600 - 300)
  check.that(decode(encode(number)) == number, number)
end
for _, number in ipairs { 0.1, 1 / 3, 100, 1e15, 123456789012 } do
  check.equal(decode(encode(number)), number)
  check.that(#encode(number) <= #('%.17g'):format(number), 'it is the shortest')
end

-- null: nil outermost, yue.null inside.
check.equal(encode(nil), 'null')
check.equal(decode ' null ', nil)
check.equal(select('#', decode 'null'), 1)
check.equal(encode(yue.null), 'null')
check.equal(decode '[null,1]'[1], yue.null)
check.equal(encode { a = yue.null }, '{"a":null}')
check.equal(encode(decode '[null,{"a":null}]'), '[null,{"a":null}]')

-- Arrays and objects keep their kind, empty ones too.
check.equal(encode {}, '{}')
check.equal(encode(yue.array {}), '[]')
check.equal(encode(yue.map {}), '{}')
check.equal(encode(yue.map { 1, 2 }), '{"1":1,"2":2}')
check.equal(encode(yue.array { 1, nil, 3 }), '[1,null,3]')
check.equal(encode(decode '{"a":[],"b":[1]}', { sort = true }), '{"a":[],"b":[1]}')
check.equal(encode(decode '[{},[[]]]'), '[{},[[]]]')
local c, listener = check.pair { echo = function(v) return v end }
check.equal(yue.msgpack.encode(decode '[{},[]]'), '\x92\x80\x90')
check.equal(c.echo(decode '{"x":[1,2]}'), { x = { 1, 2 } })
listener:close()
local list = decode '[1,2]'
list[3] = 'more'
check.equal(encode(list), '[1,2,"more"]')

-- Integers of 64 bits
check.equal(encode(ffi.new('int64_t', -5)), '-5')
check.equal(encode { ffi.new('uint64_t', -1) }, '[18446744073709551615]')
for _, text in ipairs { '9007199254740993', '-9223372036854775808', '9223372036854775807', '18446744073709551615' } do
  check.equal(type(decode(text)), 'cdata')
  check.equal(encode(decode(text)), text)
end
check.equal(decode '18446744073709551616', 2 ^ 64)
check.equal(decode '-9223372036854775809', -2 ^ 63)
check.equal(decode '9007199254740993.0', 9007199254740992)

-- Keys
check.equal(encode({ [5] = 1, [1.5] = 2, x = 3, ['ü"'] = 4 }, { sort = true }), '{"1.5":2,"5":1,"x":3,"ü\\"":4}')
check.equal(encode({ 1, 2, key = 3 }, { sort = true }), '{"1":1,"2":2,"key":3}')
check.equal(decode '{"a":1,"b":2,"a":3}', { a = 3, b = 2 })
check.equal(decode '{"":1}', { [''] = 1 })

-- Styles
check.equal(encode({ b = { 1, 2 }, a = {}, c = yue.array {} }, { indent = 2, sort = true }), [[{
  "a": {},
  "b": [
    1,
    2
  ],
  "c": []
}]])
check.equal(encode({ { a = 1 } }, { indent = '\t' }), '[\n\t{\n\t\t"a": 1\n\t}\n]')
check.equal(encode({ 1 }, { indent = 0 }), '[1]')
check.equal(encode({ 1 }, {}), '[1]')
check.equal(decode ' \t\r\n[ 1 , { "a" : 2 } ] \n', { 1, { a = 2 } })
check.equal(decode '\239\187\191[1]', { 1 })

-- Large ones: tables that grow while they are filled, long strings with escapes.
for _, size in ipairs { 15, 16, 17, 31, 32, 33, 63, 64, 65, 1000, 20000 } do
  local array, object, parts = {}, {}, {}
  for i = 1, size do
    array[i], object['key ' .. i] = i % 3 == 0 and 'text' or i + 0.5, { i }
    parts[i] = i % 5 == 0 and '\n' or i % 7 == 0 and 'é' or 'x'
  end
  local got = decode(encode(array))
  check.equal(#got, size)
  check.equal(got, array)
  check.equal(decode(encode(object)), object)
  local text = table.concat(parts)
  check.equal(decode(encode(text)), text)
  check.equal(decode(encode { [text] = text }), { [text] = text })
end
check.equal(decode('"' .. ('\\u00e9'):rep(1000) .. '"'), ('é'):rep(1000))
check.equal(decode('"' .. ('x'):rep(600) .. '\\n"'), ('x'):rep(600) .. '\n')

-- -- Values without a form are refused, with their path.

local thread = coroutine.create(print)
for _, case in ipairs {
  { 0 / 0, 'the value: NaN is not a number' }, { { 1, { x = 0 / 0 } }, '[2].x: NaN' },
  { { math.huge }, '[1]: infinity' }, { { a = { -math.huge } }, '.a[1]: infinity' },
  { print, 'the value: a function has no form' }, { { f = print }, '.f: a function' },
  { { thread }, '[1]: a coroutine' }, { { io.stdout }, '[1]: a userdata' },
  { { ['odd key'] = ffi.new('int32_t[2]') }, '["odd key"]: a cdata' },
  { { [true] = 1 }, '[true]: a boolean cannot be the key' }, { { [{}] = 1 }, '[?]: a table cannot be the key' },
  { { x = { [0 / 1] = { thread } } }, '.x[0][1]: a coroutine' },
  { '\255', 'the value: the string is not UTF-8' }, { { 'ok', 'a\xc3' }, '[2]: the string is not UTF-8' },
  { { '\xed\xa0\x80' }, 'not UTF-8' }, { { '\xc0\x80' }, 'not UTF-8' },
  { { ['\255'] = 1 }, 'the string is not UTF-8' }, { yue.array { a = 1 }, 'whole numbers' },
  { yue.array { [1e9] = 1 }, 'too many elements' },
} do
  check.raises('ArgumentError', case[2], encode, case[1])
  check.raises('ArgumentError', case[2], encode, case[1], { sort = true, indent = 1 })
end
local cyclic = { a = {} }
cyclic.a.b = cyclic
check.raises('ArgumentError', '.a.b: the table contains itself', encode, cyclic)
check.raises('ArgumentError', "[1]: an object of yue's", encode, { yue.channel() })
check.raises('ArgumentError', "the value: an object of yue's", encode, yue.socket 'thread://nobody')
check.contains(encode(yue.errors.RuntimeError.new 'an error is data'), '"an error is data"')
local function nested(levels)
  local t = yue.array {}
  for _ = 2, levels do t = { t } end
  return t
end
check.equal(#encode(nested(128)), 256)
check.raises('ArgumentError', 'deeper than 128 levels', encode, nested(129))
check.equal(encode { 'still works' }, '["still works"]')

-- A metatable runs nothing.
local guarded = setmetatable({ 1 }, { __index = error, __len = error, __pairs = error, __tostring = error })
check.equal(encode(guarded), '[1]')

-- -- Texts that are not JSON are refused, with line and column.

for text, part in pairs {
  [''] = 'line 1, column 1: the text ends here, but a value is expected',
  ['\n\n  '] = 'line 3, column 3: the text ends here',
  ['{"a": 1,\n "ü": tru}'] = 'line 2, column 7: a value (true, false or null)',
  ['[1] 2'] = 'line 1, column 5: there is text after the value',
  ['{"a" 1}'] = 'column 6: a colon is expected',
  ['{"a":1 "b":2}'] = 'column 8: a comma or } is expected',
  ['[1 2]'] = 'column 4: a comma or ] is expected',
  ['{a:1}'] = 'column 2: a key, which is a string, is expected',
  ['"abc'] = "the end of a string is expected",
  ['"a\nb"'] = 'column 3: a string contains a control character',
  ['"é\\x"'] = 'column 3: the escape is unknown',
  ['"\\ud800"'] = 'column 2: the escape is one half of a surrogate pair',
  ['01'] = 'it begins with 0', ['1e999'] = 'the number is too large', ['"\xff"'] = 'not UTF-8',
} do
  check.raises('ArgumentError', part, decode, text)
end

-- The shapes of hostile and sloppy texts that parsers have accepted or crashed on.
local accepted = {
  '[]', '[ ]', '{}', '{ }', '[[]   ]', '[null]', '[1E22]', '[1e+2]', '[1e-2]', '[-0]', '[-0.0]', '[0e1]', '[0e+1]',
  '[123.456e78]', '[0.4e-66]', '["\\u0012"]', '["\\uDBFF\\uDFFF"]', '["\\uFFFF"]', '["\\u0061\\u30af"]', '["\127"]',
  '["\\/"]', '["a/*b*/c"]', '["\xe2\x80\xa8"]', '"x"', '42', ' 1 ',
  '[1]\n', '{"a":[]}', '{"\\u0000":1}', '{"a":1,"a":1}',
  '[1,null,null,null,2]', '[20e1]', '[' .. ('1'):rep(300) .. ']', '[1e-10000]', '[0.' .. ('0'):rep(400) .. '1]',
}
local refused = {
  '[1,]', '[,1]', '[1,,2]', '[,]', '[', ']', '[1', '[1}', '{', '}', '{"a"', '{"a":', '{"a":1', '{"a":1,}', '{,"a":1}',
  '{"a":1,,"b":2}', '{"a":1]', "{'a':1}", '{1:1}', '{null:1}', '{"a"::1}', '{"a",1}', '{"a":1 true}', '[1]]', '{}}',
  '[] []', '1 2', '[1]x', '[-]', '[+1]', '[.5]', '[1.]', '[1.e1]', '[1e]', '[1e+]', '[1eE2]', '[0x1]', '[00]', '[-01]',
  '[1 000]', '[--1]', '[1+2]', '[Infinity]', '[-Infinity]', '[NaN]', '[nan]', '[1e400]', '[-1e400]', '[0e]', '[0.e1]',
  '[9.e+]', '[2.e3]', '[-1x]', '[1.1.1]', '[１]', '[True]', '[nul]', '[truex]', '[TRUE]', '[undefined]', '["]', '["\\"]',
  '["\\a"]', '["\\u"]', '["\\u00A"]', '["\\u00G0"]', '["\\U0041"]', '["\\ud800\\u0041"]', '["\\udc00"]',
  '["\\ud800\\ud800"]', '["\\ud800\\u"]', '["\\ud800\\"]', '["\\ud800', '["\\\0"]', '["\t"]', '["\0"]', '["\r\n"]',
  "['a']", '["a" "b"]', '["a"', '[1]/**/', '/**/[1]', '[1]//x', '#x', '\0', '[\0]', '[1]\0', '\12[]', '\226\129\160[]',
  '\194\160[]', '\255\254[\0]\0', '["\xe9"]', '["\xc0\xaf"]', '["\xf4\x90\x80\x80"]', '["\xed\xa0\xbd"]', '[\xe9]',
  '\239\187', '\239\187\191', '\239\187\191\239\187\191[]', '*', '<a>', '[*]', '{*}', ',', ':', '"', '-', 't', 'n', 'a',
  '[a', '["a', '[{', '[{"', '{"a":{', ('['):rep(100000), ('{"a":'):rep(100000), ('['):rep(129) .. (']'):rep(129),
  '[' .. ('9'):rep(400) .. ']', '[1e' .. ('9'):rep(400) .. ']',
}
for _, text in ipairs(accepted) do
  local ok, value = pcall(decode, text)
  check.that(ok, text)
  check.equal(decode(encode(value)), value, text)
end
for _, text in ipairs(refused) do
  local e = check.raises('ArgumentError', 'line 1, column', decode, text)
  check.that(#e.msg < 300)
end
-- A text that is cut anywhere is refused, or is a shorter value.
local whole = '{"a": [1.5e3, true, "x\\u00e9\\n", null], "b": {"c": -7}}'
for length = 1, #whole - 1 do check.raises('ArgumentError', nil, decode, whole:sub(1, length)) end

check.raises('ArgumentError', 'takes a string, not nil', decode)
check.raises('ArgumentError', 'takes a string, not the number 5', decode, 5)
check.raises('ArgumentError', 'options', encode, 1, 2)
check.raises('ArgumentError', 'no option pretty', encode, 1, { pretty = true })
for _, wrong in ipairs { -1, 0.5, 17, 'x', {}, true } do
  check.raises('ArgumentError', 'indent', encode, 1, { indent = wrong })
end
check.raises('ArgumentError', 'sort', encode, 1, { sort = 'yes' })

-- In coroutines and finalizers, too.
check.equal(coroutine.wrap(function() return decode(encode { 1 }) end)(), { 1 })
check.done()
