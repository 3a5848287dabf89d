-- Cryptography: digests, text forms of bytes, passwords.
local core, yue, internal = ...
local type = type
local check_string = internal.check_string

-- Nobody needs more at once, and a mistake must not take all memory.
local RANDOM_MAX = 2 ^ 24

yue.crypto = {}

--- `count` random bytes, fit for keys.
function yue.crypto.random(count)
  if type(count) ~= 'number' or not (count >= 0 and count <= RANDOM_MAX) or count % 1 ~= 0 then
    internal.argument_error(('yue.crypto.random takes a number of bytes, from 0 to %d, not %s'):format(
      RANDOM_MAX, internal.describe_value(count)))
  end
  return core.random(count)
end

-- Functions of strings, with the number of them. `base64` and `base64_decode` take the alphabet after them.
local FUNCTIONS = {
  sha256 = 1, hmac = 2, base64 = 1, base64_decode = 1, hex = 1, hex_decode = 1, equal = 2, password_hash = 1,
  password_verify = 2,
}

for name, count in pairs(FUNCTIONS) do
  local native, full_name = core[name], 'yue.crypto.' .. name
  yue.crypto[name] = function(first, second)
    check_string(full_name, first)
    if count == 2 then check_string(full_name, second) end
    return native(first, second)
  end
end

local function check_alphabet(name, alphabet)
  if alphabet ~= nil and alphabet ~= 'url' then
    internal.argument_error(("%s takes a string, and 'url' for the alphabet of URLs"):format(name))
  end
  return alphabet == 'url'
end

for _, name in ipairs { 'base64', 'base64_decode' } do
  local coder = yue.crypto[name]
  yue.crypto[name] = function(text, alphabet)
    return coder(text, check_alphabet('yue.crypto.' .. name, alphabet))
  end
end
