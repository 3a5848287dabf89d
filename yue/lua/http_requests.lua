-- Requests of the HTTP server, and the answers to them.
--
-- What a handler does not ask for (headers, query, body) is never read into Lua. The parts of a request can be read
-- until it has been answered: then the connection has the next one.
local core, yue, internal = ...
local setmetatable, getmetatable, type, pairs, tostring = setmetatable, getmetatable, type, pairs, tostring
local rawset, error, pcall = rawset, error, pcall
local gsub, match, lower = string.gsub, string.match, string.lower
local describe_value, to_text, unescape = internal.describe_value, internal.to_text, internal.http_unescape
local http_answer, http_send, http_end = core.http_answer, core.http_send, core.http_end
local json_encode = core.json_encode

-- The types of bodies without a header for it, as `core.http_answer` numbers them.
local NO_TYPE, TEXT, JSON = 0, 1, 2

-- Every request makes a table, so it has few fields: `link` has those of the connection (`connection`, `peer`,
-- `server`), and fields that most requests never get are here.
local Request = {
  closes = false, minor = 1, rest = false, streaming = false, text = false, upgraded = false, writer = false,
}
local lazy = {}

--- A failure that is answered with a status of its own if the handler does not catch it.
local function fail(status, text)
  local e = internal.make_error('RuntimeError', text, status)
  e.http_status = status
  error(e, 0)
end

local function check_open(req)
  if req.ended then
    error(yue.errors.RuntimeError.new('the request has been answered: its parts can be read in its handler only'), 0)
  end
end

--- The names and values of a query or a form: the first of each name in one table, all in the other.
local function parse_query(text)
  local first, all = {}, {}
  if not text then return first, all end
  for pair in text:gmatch '[^&]+' do
    local name, value = match(pair, '^([^=]*)=?(.*)$')
    name, value = unescape(gsub(name, '%+', ' ')), unescape(gsub(value, '%+', ' '))
    if not name or not value then fail(400, 'the query has an escape that is not a percent sign and two digits') end
    if first[name] == nil then first[name], all[name] = value, {} end
    local list = all[name]
    list[#list + 1] = value
  end
  return first, all
end

function lazy.headers(req)
  check_open(req)
  return core.http_headers(req.link.connection)
end

function lazy.query(req)
  local first, all = parse_query(req.query_string)
  rawset(req, 'queries', all)
  return first
end

function lazy.queries(req)
  local first, all = parse_query(req.query_string)
  rawset(req, 'query', first)
  return all
end

function lazy.params()
  return {}
end

function lazy.peer(req)
  return req.link.peer
end

function lazy.version(req)
  return req.minor == 1 and '1.1' or '1.0'
end

--- The cookies that the client sent, by name.
function lazy.cookies(req)
  local cookies = {}
  for name, value in (req:header 'cookie' or ''):gmatch '([^=;%s]+)%s*=%s*([^;]*)' do
    value = match(value, '^"?(.-)"?%s*$')
    if cookies[name] == nil then cookies[name] = value end
  end
  return cookies
end

--- The name in the client's certificate.
function lazy.client_name(req)
  check_open(req)
  return core.http_peer_name(req.link.connection) or false
end

Request.__index = function(req, key)
  local method = Request[key]
  if method ~= nil then return method end
  local make = lazy[key]
  if not make then return nil end
  local value = make(req)
  if value == false then value = nil end
  rawset(req, key, value)
  return value
end

Request.__tostring = function(req) return ('request: %s %s'):format(req.method, req.path) end

--- The value of one header; values of several headers of this name with commas between. Nil if there is none.
function Request:header(name)
  if type(name) ~= 'string' then
    internal.argument_error('req:header takes the name of a header, not ' .. describe_value(name))
  end
  check_open(self)
  return core.http_header(self.link.connection, lower(name))
end

--- The whole body as text; an empty text for none. Above `body_max` the request is refused with 413.
function Request:body()
  local text = self.text
  if text then return text end
  check_open(self)
  if self.streaming then
    error(yue.errors.RuntimeError.new('req:chunks() reads this body already'), 0)
  end
  local status
  text, status = nil, nil
  local fault
  text, status, fault = core.http_body(self.link.connection, self.link.server.body_max)
  if not text then
    self.closes = true
    fail(status, fault)
  end
  self.text = text
  return text
end

--- The value of a body in JSON. Another one is refused with 400.
function Request:json()
  local text = self:body()
  local ok, value = pcall(core.json_decode, text)
  if ok then return value end
  fail(400, 'the body is not JSON: ' .. gsub(to_text(value.msg or value), '^cannot decode the JSON text: ', ''))
end

--- The fields of a form in the body: the first of each name in one table, all in the other.
function Request:form()
  return parse_query(self:body())
end

--- Iterates over the pieces of the body, as they arrive. There is no limit to its size.
function Request:chunks()
  check_open(self)
  if self.text then
    local text = self.text
    return function()
      local piece = text
      text = nil
      return piece ~= '' and piece or nil
    end
  end
  self.streaming = true
  return function()
    check_open(self)
    local piece, status, fault = core.http_piece(self.link.connection)
    if status then
      self.closes = true
      fail(status, fault)
    end
    return piece
  end
end

-- -- Answers -------------------------------------------------------------------------------------------------------

local function is_iterator(value)
  if type(value) == 'function' then return true end
  local meta = getmetatable(value)
  return type(meta) == 'table' and meta.__call ~= nil
end

local function header_error(text)
  error(yue.errors.ArgumentError.new('the answer of a handler: ' .. text), 0)
end

--- The headers as a list of names and values; whether they have a type of the body.
local function list_headers(headers)
  if type(headers) ~= 'table' then
    header_error('headers are a table, not ' .. describe_value(headers))
  end
  local list, count = {}, 0
  for name, value in pairs(headers) do
    if type(name) ~= 'string' then header_error('the name of a header is a string, not ' .. describe_value(name)) end
    local values = type(value) == 'table' and value or { value }
    for i = 1, #values do
      local each = values[i]
      if type(each) ~= 'string' and type(each) ~= 'number' then
        header_error(('the header %s is a string, a number or a list of them, not %s'):format(
          name, describe_value(each)))
      end
      list[count + 1], list[count + 2] = name, tostring(each)
      count = count + 2
    end
  end
  return list
end

--- The answer has been sent, or `fault` says why it cannot be.
local function check_answer(req, fault)
  if fault then header_error(fault) end
  req.answered = true
end

--- Sends what `next_piece` returns, until that is nil. The peer may be gone before.
local function send_pieces(req, next_piece)
  local connection = req.link.connection
  if req.method == 'HEAD' then return http_end(connection, true) end
  while true do
    local piece = next_piece()
    if piece == nil then return http_end(connection, true) end
    if type(piece) == 'number' then piece = tostring(piece) end
    if type(piece) ~= 'string' then
      header_error('the function of a body returns strings, and nil at the end, not ' .. describe_value(piece))
    end
    if not http_send(connection, piece) then return http_end(connection, false) end
  end
end

--- Begins an answer whose body follows in pieces.
function internal.http_begin(req, status, headers)
  check_answer(req, http_answer(req.link.connection, status, true, TEXT, list_headers(headers), req.closes))
end

local function answer(req, status, body, headers)
  local list = headers ~= nil and list_headers(headers) or nil
  local kind = type(body)
  if status == nil then status = body == nil and 204 or 200 end
  if type(status) ~= 'number' or status % 1 ~= 0 then
    header_error('a status is a whole number, not ' .. describe_value(status))
  end
  local connection, closes = req.link.connection, req.closes
  if (status == 204 or status == 304) and body ~= nil and body ~= '' then
    header_error(('an answer with status %d has no body'):format(status))
  end
  if kind == 'string' or kind == 'number' then
    return check_answer(req, http_answer(connection, status, body, TEXT, list, closes))
  end
  if body == nil then return check_answer(req, http_answer(connection, status, nil, NO_TYPE, list, closes)) end
  if is_iterator(body) then
    check_answer(req, http_answer(connection, status, true, TEXT, list, closes))
    return send_pieces(req, body)
  end
  if kind == 'table' then
    return check_answer(req, http_answer(connection, status, json_encode(body, ''), JSON, list, closes))
  end
  header_error('a body is a string, a table for JSON, or a function that returns pieces, not ' .. describe_value(body))
end

--- Sends the values that a handler returned: `status, body, headers`, or `body, headers`.
local function answer_with(req, first, second, third)
  if type(first) == 'number' then return answer(req, first, second, third) end
  return answer(req, nil, first, second)
end

local Writer = {}
Writer.__index = Writer

--- Sends a piece of the body, and waits until the client has room. Raises when the client is gone.
function Writer:write(piece)
  if type(piece) ~= 'string' then
    internal.argument_error('writer:write takes a string, not ' .. describe_value(piece))
  end
  if self.closed then error(yue.errors.RuntimeError.new('the answer has ended'), 0) end
  if self.request.method == 'HEAD' then return end
  if not http_send(self.request.link.connection, piece) then
    error(yue.errors.ConnectionLostError.new('the connection to the client has ended'), 0)
  end
end

--- Ends the body.
function Writer:close()
  if self.closed then return end
  self.closed = true
  http_end(self.request.link.connection, true)
end

--- Begins an answer whose body the handler writes piece by piece.
function Request:respond(status, headers)
  check_open(self)
  if self.answered then error(yue.errors.RuntimeError.new('the request has been answered already'), 0) end
  if type(status) ~= 'number' or status % 1 ~= 0 then
    internal.argument_error('req:respond takes a status, a whole number, not ' .. describe_value(status))
  end
  local list = headers ~= nil and list_headers(headers) or nil
  local fault = http_answer(self.link.connection, status, true, TEXT, list, self.closes)
  check_answer(self, fault)
  local writer = setmetatable({ request = self, closed = false }, Writer)
  self.writer = writer
  return writer
end

internal.HttpRequest = Request
internal.http_is_iterator, internal.http_answer, internal.http_answer_with = is_iterator, answer, answer_with
