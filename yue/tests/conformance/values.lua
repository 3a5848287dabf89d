-- Numbers, text, bytes, arrays, maps and 64-bit integers arrive as they were sent.
local check = require 'check'
local ffi = require 'ffi'
return {
  server = function()
    return {
      echo = function(...) return ... end,
      kind = function(x) return ('%s %s'):format(type(x), tostring(x)) end,
      holes = function(t) return t[1] == 1 and t[2] == nil and t[3] == 3 end,
    }
  end,
  client = function(endpoint)
    local c = endpoint.open()
    local values = {
      0, 1, -1, 127, 128, 255, 256, 65535, 65536, -32, -33, -128, -129, -32768, -32769, 2 ^ 31, 2 ^ 32, -2 ^ 31,
      2 ^ 53, -2 ^ 53, 0.5, -1.25, 1e300, 5e-324, math.huge, -math.huge, true, false, '', 'text', 'ünï', '\0\255\254',
      ('x'):rep(31), ('x'):rep(32), ('x'):rep(255), ('x'):rep(256), ('x'):rep(1000), ('\255'):rep(1000),
      {}, { 1, 2, 3 }, { a = 1, b = { 2, { c = 3 } } }, { [5] = 'five', ten = 10 }, { { {} } },
    }
    for i, value in ipairs(values) do check.equal(c.echo(value), value, 'value ' .. i) end
    local nan = c.echo(0 / 0)
    check.that(nan ~= nan)
    check.equal(c.kind(ffi.new('uint64_t', 2 ^ 63)), 'cdata 9223372036854775808ULL')
    check.equal(c.kind(ffi.new('int64_t', -2)), 'number -2')
    check.equal(c.holes(yue.array { 1, nil, 3 }), true)
    check.equal(c.kind(yue.null), 'nil nil')
    local list = {}
    for i = 1, 1000 do list[i] = { n = i, text = tostring(i) } end
    check.equal(c.echo(list), list)
  end,
}
