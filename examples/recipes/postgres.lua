-- A PostgreSQL client: parameters, rows as tables, transactions, a pool of connections, TLS.
--
--   local postgres = require 'postgres'
--   local db = postgres.pool(10, { addr = 'unix:///var/run/postgresql/.s.PGSQL.5432', user = 'app', database = 'app' })
--   for _, row in ipairs(db:query('select id, name from players where score > $1', 100)) do print(row.id, row.name) end
--   db:transaction(function(c)
--     c:query('update accounts set gold = gold - $1 where id = $2', 5, 1)
--     c:query('update accounts set gold = gold + $1 where id = $2', 5, 2)
--   end)
--
-- Values travel as text. NULL is nil, in both directions; whole numbers beyond 2^53 and `numeric` stay texts.
-- Errors of the server have the SQLSTATE as their `code` ('23505') and all fields in `value`.
-- The protocol: https://www.postgresql.org/docs/current/protocol-message-formats.html
local yue = require 'yue'
local bit = require 'bit'
local crypto = yue.crypto
local char, byte, concat = string.char, string.byte, table.concat

local postgres = {}

-- The password is hashed so many times; a server must not keep the loop busy for long.
local ITERATIONS_MAX = 100000

-- -- Messages --------------------------------------------------------------------------------------------------------

local function int32(n)
  return char(bit.band(bit.rshift(n, 24), 255), bit.band(bit.rshift(n, 16), 255), bit.band(bit.rshift(n, 8), 255),
    bit.band(n, 255))
end

local function int16(n)
  return char(bit.rshift(n, 8), bit.band(n, 255))
end

local function read_int32(text, at)
  local a, b, c, d = byte(text, at, at + 3)
  return bit.bor(bit.lshift(a, 24), bit.lshift(b, 16), bit.lshift(c, 8), d)
end

local function read_int16(text, at)
  local a, b = byte(text, at, at + 1)
  return a * 256 + b
end

local function message(kind, body)
  return kind .. int32(#body + 4) .. body
end

local function read(stream, count)
  local text = stream:read(count)
  if text and #text == count then return text end
  error(yue.errors.ConnectionLostError.new 'PostgreSQL closed the connection', 0)
end

--- Reads a message: its kind and its body.
local function receive(stream)
  local head = read(stream, 5)
  return head:sub(1, 1), read(stream, math.max(read_int32(head, 2) - 4, 0))
end

local function server_error(body)
  local fields = {}
  for kind, text in body:gmatch '(%a)(%Z*)%z' do fields[kind] = text end
  local e = yue.errors.RuntimeError.new(('PostgreSQL: %s: %s'):format(fields.S, fields.M), {
    severity = fields.V or fields.S, message = fields.M, detail = fields.D, hint = fields.H, constraint = fields.n,
    schema = fields.s, table = fields.t, column = fields.c, position = tonumber(fields.P),
  })
  e.code = fields.C
  return e
end

-- -- Login -----------------------------------------------------------------------------------------------------------

local function xor(a, b)
  local bytes = {}
  for i = 1, #a do bytes[i] = char(bit.bxor(byte(a, i), byte(b, i))) end
  return concat(bytes)
end

--- PBKDF2 with HMAC-SHA-256, one block (RFC 8018, section 5.2).
local function salted_password(password, salt, iterations)
  local u = crypto.hmac(password, salt .. '\0\0\0\1')
  local result = { byte(u, 1, 32) }
  for i = 2, iterations do
    u = crypto.hmac(password, u)
    for j = 1, 32 do result[j] = bit.bxor(result[j], byte(u, j)) end
    if i % 1000 == 0 then yue.yield() end
  end
  return char(unpack(result))
end

--- SCRAM-SHA-256 (RFC 5802, RFC 7677): both sides show that they know the password, and neither sends it.
local function scram(stream, password)
  local nonce = crypto.base64(crypto.random(18))
  local first = 'n=,r=' .. nonce
  stream:write(message('p', 'SCRAM-SHA-256\0' .. int32(#first + 3) .. 'n,,' .. first))
  local kind, body = receive(stream)
  if kind == 'E' then error(server_error(body), 0) end
  local challenge = body:sub(5)
  local both, salt, count = challenge:match '^r=([^,]*),s=([^,]*),i=(%d+)'
  count = tonumber(count)
  if not both or both:sub(1, #nonce) ~= nonce or count > ITERATIONS_MAX then
    error(yue.errors.RuntimeError.new 'PostgreSQL: this is no answer to SCRAM-SHA-256', 0)
  end
  local salted = salted_password(password, crypto.base64_decode(salt), count)
  local final = 'c=biws,r=' .. both
  local all = concat({ first, challenge, final }, ',')
  local key = crypto.hmac(salted, 'Client Key')
  local proof = xor(key, crypto.hmac(crypto.sha256(key), all))
  stream:write(message('p', final .. ',p=' .. crypto.base64(proof)))
  kind, body = receive(stream)
  if kind == 'E' then error(server_error(body), 0) end
  local signature = 'v=' .. crypto.base64(crypto.hmac(crypto.hmac(salted, 'Server Key'), all))
  if not crypto.equal(body:sub(5), signature) then
    error(yue.errors.RuntimeError.new 'PostgreSQL: the server does not know the password: it is an impostor', 0)
  end
end

local function authenticate(stream, options)
  while true do
    local kind, body = receive(stream)
    if kind == 'E' then error(server_error(body), 0) end
    if kind == 'Z' then return end
    local method = kind == 'R' and read_int32(body, 1) or 0
    if method == 10 and body:find('SCRAM-SHA-256\0', 1, true) then
      scram(stream, options.password or '')
    elseif method == 3 and options.tls then
      stream:write(message('p', (options.password or '') .. '\0'))
    elseif method ~= 0 then
      error(yue.errors.RuntimeError.new 'PostgreSQL asks for a login other than SCRAM-SHA-256, or plain text in TLS', 0)
    end
  end
end

local Connection = {}
Connection.__index = Connection

--- Connects. `options`: `addr`, `user`, `password`, `database`; `tls = {…}`, options of `starttls`; `net = {…}`, those
--- of `yue.net.connect`.
function postgres.connect(options)
  local stream = yue.net.connect(options.addr, options.net)
  local ok, e = pcall(function()
    if options.tls then
      stream:write(int32(8), int32(80877103))
      if stream:read(1) ~= 'S' then
        error(yue.errors.TLSError.new 'the PostgreSQL server does not offer TLS (ssl = on)', 0)
      end
      stream:starttls(options.tls)
    end
    local database = options.database or options.user
    local start = concat({ 'user', options.user, 'database', database, 'client_encoding', 'UTF8', '', '' }, '\0')
    stream:write(int32(#start + 8), int32(196608), start)
    authenticate(stream, options)
  end)
  if not ok then
    stream:close()
    error(e, 0)
  end
  return setmetatable({ stream = stream, mutex = yue.mutex() }, Connection)
end

-- -- Queries ---------------------------------------------------------------------------------------------------------

local function to_boolean(text) return text == 't' end
local function to_integer(text)
  local number = tonumber(text)
  return math.abs(number) < 2 ^ 53 and number or text
end

-- By the type's number: bool, int8, int2, int4, oid, float4, float8.
local CONVERSIONS = {
  [16] = to_boolean, [20] = to_integer, [21] = tonumber, [23] = tonumber, [26] = tonumber, [700] = tonumber,
  [701] = tonumber,
}

local function to_text(value)
  if type(value) == 'boolean' then return value and 't' or 'f' end
  if type(value) == 'number' then return ('%.17g'):format(value) end
  return tostring(value)
end

local function read_columns(body)
  local columns, at = {}, 3
  for i = 1, read_int16(body, 1) do
    local stop = body:find('\0', at, true)
    columns[i] = { name = body:sub(at, stop - 1), convert = CONVERSIONS[read_int32(body, stop + 7)] }
    at = stop + 19
  end
  return columns
end

local function read_row(body, columns)
  local row, at = {}, 3
  for i = 1, #columns do
    local size, column = read_int32(body, at), columns[i]
    at = at + 4
    if size >= 0 then
      local text = body:sub(at, at + size - 1)
      if column.convert then text = column.convert(text) end
      row[column.name] = text
      at = at + size
    end
  end
  return row
end

--- Reads the answer up to the server's "ready": the rows, and the number of rows that the command was about.
local function read_answer(stream)
  local rows, columns, failure = {}, {}, nil
  while true do
    local kind, body = receive(stream)
    if kind == 'T' then
      columns = read_columns(body)
    elseif kind == 'D' then
      rows[#rows + 1] = read_row(body, columns)
    elseif kind == 'C' then
      rows.count = tonumber(body:match '(%d+)%z$')
    elseif kind == 'E' then
      failure = server_error(body)
    elseif kind == 'Z' then
      if failure then error(failure, 0) end
      return rows
    end
  end
end

--- Writes a text and reads its answer. An error that is not the server's, a time limit for example, leaves the answer
--- unread: the connection ends.
local function exchange(self, text)
  local ok, result = pcall(function()
    self.stream:write(text)
    return read_answer(self.stream)
  end)
  if ok then return result end
  if not (type(result.code) == 'string' and #result.code == 5 and result.value) then self:close() end
  error(result, 0)
end

local function query(self, sql, ...)
  local count = select('#', ...)
  local bind = { '\0\0', int16(0), int16(count) }
  for i = 1, count do
    local value = (select(i, ...))
    local text = value ~= nil and value ~= yue.null and to_text(value)
    bind[#bind + 1] = text and int32(#text) .. text or int32(-1)
  end
  bind[#bind + 1] = int16(0)
  return exchange(self, message('P', '\0' .. sql .. '\0' .. int16(0)) .. message('B', concat(bind))
    .. message('D', 'P\0') .. message('E', '\0' .. int32(0)) .. message('S', ''))
end

--- Runs a statement with parameters `$1`, `$2`, …: returns the list of rows, with the field `count`.
function Connection:query(sql, ...)
  if self.owner == yue.fiber.current() then return query(self, sql, ...) end
  return self.mutex:with(query, self, sql, ...)
end

--- Runs one or more statements without parameters.
function Connection:script(sql)
  local text = message('Q', sql .. '\0')
  if self.owner == yue.fiber.current() then return exchange(self, text) end
  return self.mutex:with(exchange, self, text)
end

--- Runs `fn(connection)` in a transaction: returns its result, or rolls back and raises its error.
function Connection:transaction(fn)
  return self.mutex:with(function()
    query(self, 'begin')
    self.owner = yue.fiber.current()
    local ok, result = pcall(fn, self)
    self.owner = nil
    if ok then
      query(self, 'commit')
      return result
    end
    if not self.closed then pcall(yue.shield, query, self, 'rollback') end
    error(result, 0)
  end)
end

function Connection:close()
  if self.closed then return end
  self.closed = true
  self.stream:close()
end

-- -- Pools -----------------------------------------------------------------------------------------------------------

local Pool = {}
Pool.__index = Pool

--- A pool of up to `size` connections, which are made when they are needed.
function postgres.pool(size, options)
  return setmetatable({ room = yue.semaphore(size), idle = {}, options = options }, Pool)
end

--- Runs `fn(connection, ...)` with a connection of the pool.
function Pool:with(fn, ...)
  self.room:acquire()
  local ok, result = pcall(function(...)
    local connection = table.remove(self.idle) or postgres.connect(self.options)
    local ran, value = pcall(fn, connection, ...)
    if not connection.closed then self.idle[#self.idle + 1] = connection end
    if not ran then error(value, 0) end
    return value
  end, ...)
  self.room:release()
  if not ok then error(result, 0) end
  return result
end

for _, name in ipairs { 'query', 'script', 'transaction' } do
  Pool[name] = function(self, ...) return self:with(Connection[name], ...) end
end

function Pool:close()
  for _, connection in ipairs(self.idle) do connection:close() end
  self.idle = {}
end

return postgres
