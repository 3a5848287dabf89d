---@meta yue.data
-- LuaCATS stubs of `yue`, continued: JSON, msgpack, C data, cryptography. They are never run. docs/src/lua-api.md
-- explains.

---@class yue
local yue = {}

-- -- JSON and msgpack ------------------------------------------------------------------------------------------------

yue.json = {}

---@class yue.JsonOptions
---@field indent? integer|string The spaces, or the text, by which each level is indented. By default one line.
---@field sort? boolean Sort the keys of objects.

---The JSON text of a value. An unmarked empty table is an object.
---@param value any
---@param options yue.JsonOptions?
---@return string
function yue.json.encode(value, options) end

---The value of a JSON text. Arrays are marked as by `yue.array`; null is `yue.null`, and nil outermost.
---@param text string
---@return any
function yue.json.decode(text) end

yue.msgpack = {}

---The values as msgpack, one after the other.
---@param ... any
---@return string
function yue.msgpack.encode(...) end

---All values in the bytes.
---@param bytes string
---@return any ...
function yue.msgpack.decode(bytes) end

---LuaJIT's library for C data and C functions: `require 'ffi'`.
---@type ffilib
yue.ffi = {}

-- -- Cryptography ----------------------------------------------------------------------------------------------------

yue.crypto = {}

---Random bytes of the system's generator, fit for keys.
---@param count integer
---@return string
function yue.crypto.random(count) end

---The SHA-256 digest: 32 bytes.
---@param text string
---@return string
function yue.crypto.sha256(text) end

---The HMAC-SHA256 of a text: 32 bytes.
---@param key string
---@param text string
---@return string
function yue.crypto.hmac(key, text) end

---@param bytes string
---@param alphabet 'url'? `-` and `_` for `+` and `/`, and no `=`.
---@return string
function yue.crypto.base64(bytes, alphabet) end

---@param text string With or without `=` at the end.
---@param alphabet 'url'?
---@return string
function yue.crypto.base64_decode(text, alphabet) end

---@param bytes string
---@return string # Lower-case digits.
function yue.crypto.hex(bytes) end

---@param text string
---@return string
function yue.crypto.hex_decode(text) end

---Compares secrets: the time depends on their lengths alone.
---@param a string
---@param b string
---@return boolean
function yue.crypto.equal(a, b) end

---A hash of the password to be stored, by Argon2id with a new salt. The other fibers run meanwhile.
---@param password string
---@return string
function yue.crypto.password_hash(password) end

---Whether the hash is one of the password. The other fibers run meanwhile.
---@param hash string
---@param password string
---@return boolean
function yue.crypto.password_verify(hash, password) end

return yue
