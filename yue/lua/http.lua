-- The HTTP client: requests, redirects, answers that are read whole or in pieces.
local core, yue, internal = ...
local type, pairs, ipairs, tostring = type, pairs, ipairs, tostring
local setmetatable, getmetatable, rawget, pcall, error = setmetatable, getmetatable, rawget, pcall, error
local concat, sort, find, lower, upper = table.concat, table.sort, string.find, string.lower, string.upper
local is_callable, describe_value, make_error = internal.is_callable, internal.describe_value, internal.make_error

-- Seconds for a whole request. A call has 5: pages are larger, and often far away.
local TIMEOUT = 30

-- Larger bodies are seldom meant to be in memory at once.
local BODY_MAX = 2 ^ 24

local REDIRECTS = 10

-- Bytes of a body that are quoted in an error, and that are read so that a connection can be used again.
local QUOTED, DRAINED = 200, 2 ^ 16

-- As in `ClientOptions` of the native side.
local IDLE_MAX, IDLE_TIME = 64, 60

local http = yue.http or {}
yue.http = http

local function fail(name, text, ...)
  internal.argument_error(('%s: %s'):format(name, text:format(...)))
end

-- -- Options ---------------------------------------------------------------------------------------------------------

-- Options of each request, with the type of each; other types have checks of their own.
local OPTIONS = {
  headers = 'any', query = 'any', body = 'any', json = 'any', form = 'any', timeout = 'number or false',
  body_max = 'count', redirects = 'any', check = 'boolean', stream = 'boolean', socket = 'string',
}

-- Those of the connection. A set of them has connections of its own.
local CONNECTION = {
  cert = 'string', key = 'string', ca = 'string', server_name = 'string', insecure = 'boolean',
  keepalive = 'number or false', handshake_timeout = 'number',
}

local CLIENT_OPTIONS = { base = 'string', idle_max = 'any', idle_time = 'number' }
for key, wanted in pairs(CONNECTION) do OPTIONS[key] = wanted end

local function count_fault(value)
  return (type(value) ~= 'number' or not (value >= 0) or value % 1 ~= 0)
    and 'a number, 0 or more, not ' .. describe_value(value)
end

--- Raises unless each key of `options` is in `known` or `more`, with a value that fits.
local function check_options(name, options, known, more)
  if options == nil then return {} end
  if type(options) ~= 'table' then fail(name, 'the options are a table, not %s', describe_value(options)) end
  for key, value in pairs(options) do
    local wanted = known[key] or (more and more[key])
    if not wanted then
      local names = {}
      for each in pairs(known) do names[#names + 1] = each end
      for each in pairs(more or {}) do names[#names + 1] = each end
      sort(names)
      fail(name, 'there is no option %s; there are: %s', internal.to_text(key), concat(names, ', '))
    end
    local fault = wanted ~= 'any' and internal.option_fault(wanted, value)
    if key == 'redirects' or key == 'idle_max' then fault = count_fault(value) end
    if fault then fail(name, 'the option %s is %s', key, fault) end
  end
  return options
end

-- -- Texts of a request ----------------------------------------------------------------------------------------------

local function percent(character)
  return ('%%%02X'):format(character:byte())
end

local function encoded(text)
  return (tostring(text):gsub('[^%w%-._~]', percent))
end

local SCALARS = { string = true, number = true, boolean = true }

--- The pairs of a table as `a=1&b=2`, sorted by their keys. A list as a value repeats the key.
local function encode_pairs(name, what, fields)
  if type(fields) ~= 'table' then fail(name, '%s is a table, not %s', what, describe_value(fields)) end
  local keys, parts = {}, {}
  for key in pairs(fields) do
    if type(key) ~= 'string' then fail(name, 'the keys of %s are strings, not %s', what, describe_value(key)) end
    keys[#keys + 1] = key
  end
  sort(keys)
  for _, key in ipairs(keys) do
    local values = fields[key]
    for _, value in ipairs(type(values) == 'table' and values or { values }) do
      if not SCALARS[type(value)] then
        fail(name, '%s.%s is a string, a number, a boolean or a list of them, not %s', what, key, describe_value(value))
      end
      parts[#parts + 1] = encoded(key) .. '=' .. encoded(value)
    end
  end
  return concat(parts, '&')
end

local function with_query(name, url, query)
  if query == nil then return url end
  local text = type(query) == 'string' and query or encode_pairs(name, 'query', query)
  if text == '' then return url end
  url = url:gsub('#.*$', '')
  return url .. (find(url, '?', 1, true) and '&' or '?') .. text
end

local DEFAULT_HEADERS = {
  accept = '*/*',
  -- Bodies are passed on as they come.
  ['accept-encoding'] = 'identity',
  ['user-agent'] = 'yue/' .. core.version,
}

local function check_header(name, key, value)
  if type(value) == 'number' then value = tostring(value) end
  if type(value) ~= 'string' then
    fail(name, 'the header %s is a string, a number or a list of them, not %s', key, describe_value(value))
  end
  if find(value, '[%z\r\n]') then fail(name, 'the header %s contains a line break or a zero byte', key) end
  return value
end

--- Adds headers to `all`, by their names in lower case. A list as a value is several headers; false removes one.
local function add_headers(name, all, headers)
  if headers == nil then return end
  if type(headers) ~= 'table' then
    fail(name, 'headers is a table { name = value }, not %s', describe_value(headers))
  end
  local seen = {}
  for key, value in pairs(headers) do
    if type(key) ~= 'string' or key == '' or find(key, '[%z\r\n]') then
      fail(name, 'headers has a name that is not one: %s', internal.to_text(key))
    end
    local known = lower(key)
    if seen[known] then fail(name, 'headers has %s twice, in upper and lower case', known) end
    seen[known] = true
    if value == false then
      all[known] = nil
    elseif type(value) == 'table' then
      local list = {}
      for i, each in ipairs(value) do list[i] = check_header(name, key, each) end
      all[known] = list
    else
      all[known] = check_header(name, key, value)
    end
  end
end

-- The native side takes headers as one string, in which each name and value ends with a zero byte.
local function pack_headers(headers)
  local parts = {}
  for key, value in pairs(headers) do
    if type(value) == 'table' then
      for _, each in ipairs(value) do parts[#parts + 1] = key .. '\0' .. each .. '\0' end
    else
      parts[#parts + 1] = key .. '\0' .. value .. '\0'
    end
  end
  return concat(parts)
end

local DEFAULT_PACKED = pack_headers(DEFAULT_HEADERS)

--- The function that returns the next piece of a body, if the value provides one.
local function piece_source(body)
  if type(body) == 'table' and getmetatable(body) and is_callable(body.read) then
    return function() return body:read() end
  end
  return is_callable(body) and body or nil
end

--- The body of a request: its text, or the function that returns its pieces; and its type, if that is known.
local function body_of(name, o)
  local given = (o.body ~= nil and 1 or 0) + (o.json ~= nil and 1 or 0) + (o.form ~= nil and 1 or 0)
  if given > 1 then fail(name, 'one of body, json and form is the body') end
  if o.json ~= nil then return yue.json.encode(o.json), nil, 'application/json' end
  if o.form ~= nil then return encode_pairs(name, 'form', o.form), nil, 'application/x-www-form-urlencoded' end
  local body = o.body
  if body == nil then return '' end
  if type(body) == 'string' then return body end
  local source = piece_source(body)
  if source then return nil, source end
  if type(body) == 'table' then return yue.json.encode(body), nil, 'application/json' end
  fail(name, 'the body is a string, a table (sent as JSON) or a function that returns its pieces, not %s',
    describe_value(body))
end

-- -- Answers ---------------------------------------------------------------------------------------------------------

-- Names of headers are found in upper and lower case.
local HEADERS = {
  __index = function(headers, name)
    if type(name) == 'string' then return rawget(headers, lower(name)) end
  end,
}

local Response = internal.new_class 'response'

function Response:__tostring()
  return ('response %d %s of %s'):format(self.status, self.reason, self.url)
end

--- Whether the status is 200 to 299.
function Response:ok()
  return self.status >= 200 and self.status <= 299
end

--- Ends an exchange: its connection is closed, unless the answer was read whole.
local function close(state)
  state.source = nil
  if state.handle then
    core.http_close(state.handle)
    state.handle = nil
  end
end

--- The next piece of the request's body, from the program. Checked here, because it goes to the native side.
local function feed(state)
  local piece = state.source()
  if piece == nil then
    state.source = nil
  elseif type(piece) ~= 'string' then
    internal.argument_error('a piece of a body is a string, or nil at its end, not ' .. describe_value(piece))
  end
  if state.handle then core.http_feed(state.handle, piece) end
end

--- The next bytes of an answer's body, and nil at its end. The request's body is sent meanwhile, if the server answered
--- before it had all of it.
local function next_bytes(state)
  while state.handle do
    local step, bytes = core.http_advance(state.handle)
    if step == 'data' then return bytes end
    if step == 'end' then
      close(state)
    elseif step == 'body' then
      if state.source then feed(state) else core.http_stop_feeding(state.handle) end
    end
  end
  return nil
end

--- Reads the rest of an answer's body. The exchange has ended afterwards, also by an error.
local function read_rest(state, url, body_max)
  local parts, size = {}, 0
  while state.source do
    local bytes = next_bytes(state)
    if not bytes then return concat(parts) end
    size = size + #bytes
    if size > body_max then
      error(make_error('MessageTooLargeError', ('the body of the answer of %s has more than %d bytes; raise body_max, '
        .. 'or read it in pieces, with stream = true'):format(url, body_max)), 0)
    end
    parts[#parts + 1] = bytes
  end
  if state.handle then
    parts[#parts + 1] = core.http_rest(state.handle, body_max - size)
    close(state)
  end
  return concat(parts)
end

-- The reader below a response that is read in pieces.
local function next_chunk(reader)
  local state = reader.state
  if not state.handle then
    if state.is_closed then
      error(make_error('ConnectionLostError', reader.what .. ' was closed: nothing more can be read from it'), 0)
    end
    return nil
  end
  if not state.timeout then return next_bytes(state) end
  return core.with_deadline(state.timeout, next_bytes, state)
end

local function reader_of(response)
  local reader = response.reader
  if not reader then
    -- A body that was read whole can be read in pieces, too.
    reader = internal.new_reader('the answer of ' .. response.url, function() return nil end)
    reader.rest = response.body
    response.reader = reader
  end
  return reader
end

--- The next bytes, as they come; with `count` so many, or fewer at the end; with `'*a'` all. Nil at the end.
function Response:read(count)
  return reader_of(self):read(count)
end

--- Iterates over the body, as it comes.
function Response:chunks()
  local reader = reader_of(self)
  return function() return reader:read() end
end

--- The next line of the body, without its end; nil at the end.
function Response:line()
  return reader_of(self):line()
end

--- Iterates over the lines of the body.
function Response:lines()
  return reader_of(self):lines()
end

--- The value of the JSON in the body.
function Response:json()
  if self.body == nil then self.body = reader_of(self):read '*a' or '' end
  if self.body == '' then
    error(make_error('RuntimeError', ('the answer of %s (%d %s) has no body, and so no JSON'):format(
      self.url, self.status, self.reason)), 0)
  end
  return yue.json.decode(self.body)
end

--- Closes the connection, unless the answer was read whole. Nothing more can be read.
function Response:close()
  local state = self.state
  if not state or state.is_closed then return end
  state.is_closed = state.handle ~= nil
  close(state)
end

-- -- Requests --------------------------------------------------------------------------------------------------------

local REDIRECTING = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }

-- Headers that another origin must not get, and those that belong to a body that is not sent again.
local SECRET = { 'authorization', 'cookie', 'proxy-authorization' }
local OF_BODY = { 'content-type', 'content-encoding', 'content-language', 'content-location' }

local function remove_headers(request, names)
  local rest = {}
  for key, value in pairs(request.headers) do rest[key] = value end
  for _, name in ipairs(names) do rest[name] = nil end
  request.headers, request.packed = rest, nil
end

local function redirect_fault(request, text, ...)
  error(make_error('TransportError', ('%s %s: '):format(request.method, request.url) .. text:format(...)), 0)
end

--- Changes the request to the one that a redirect asks for (Fetch standard, "HTTP-redirect fetch").
local function follow(request, status, url, location)
  request.followed = request.followed + 1
  if request.followed > request.redirects then
    redirect_fault(request, 'it was redirected more than %d times, the last time to %s; raise redirects, or return the '
      .. 'redirects themselves with redirects = 0', request.redirects, location)
  end
  -- The user in the URL is for its origin alone.
  local _, user, password = core.http_url(request.url)
  local there, is_same, is_secure = core.http_join(url, location)
  if find(url, '^https:') and not is_secure then
    redirect_fault(request, 'it was redirected from https:// to %s, which is not followed: what it sends would be '
      .. 'readable on the way', there)
  end
  if user and is_same and not request.headers.authorization then
    remove_headers(request, {})
    request.headers.authorization = 'Basic ' .. yue.crypto.base64(user .. ':' .. password)
  end
  if not is_same then remove_headers(request, SECRET) end
  local method = request.method
  if (status == 303 and method ~= 'GET' and method ~= 'HEAD') or ((status == 301 or status == 302) and method == 'POST')
  then
    request.method, request.body, request.source = 'GET', '', nil
    remove_headers(request, OF_BODY)
  elseif request.is_piecewise then
    redirect_fault(request, 'it was redirected (%d) to %s, and its body comes in pieces, which cannot be repeated; '
      .. 'give the body as a string, or request that URL', status, there)
  end
  request.is_piecewise = request.source ~= nil
  request.url = there
end

local function new_response(status, reason, version, headers, url)
  return setmetatable({
    status = status, reason = reason, version = version, headers = setmetatable(headers, HEADERS), url = url,
  }, Response)
end

local function pack(request)
  local packed = request.packed or pack_headers(request.headers)
  request.packed = packed
  return packed
end

--- Sends the request, and returns the answer with its body, or nil if it is to be redirected.
local function fetch_whole(request)
  local status, reason, version, headers, url, body = core.http_fetch(request.client, request.method, request.url,
    pack(request), request.body, request.socket, request.connection, request.body_max)
  if REDIRECTING[status] and headers.location and request.redirects > 0 then
    follow(request, status, url, headers.location)
    return nil
  end
  local response = new_response(status, reason, version, headers, url)
  response.body = body
  return response
end

local function run_steps(request, state)
  local step, status, reason, version, headers
  repeat
    step, status, reason, version, headers = core.http_advance(state.handle)
    if step == 'body' then feed(state) end
  until step == 'head'
  if status >= 300 then
    -- The server does not want the rest of the body.
    state.source = nil
  end
  local url = state.url
  if REDIRECTING[status] and headers.location and request.redirects > 0 then
    -- The connection serves the next request if this body is short.
    pcall(core.http_rest, state.handle, DRAINED)
    close(state)
    follow(request, status, url, headers.location)
    return nil
  end
  local response = new_response(status, reason, version, headers, url)
  if not request.stream then
    response.body = read_rest(state, url, request.body_max)
    return response
  end
  local reader = internal.new_reader('the answer of ' .. url, next_chunk)
  reader.state, response.reader, response.state = state, reader, state
  return response
end

--- Like `fetch_whole`, for bodies in pieces in either direction.
local function fetch_steps(request)
  local handle, url = core.http_start(request.client, request.method, request.url, pack(request), request.body,
    request.socket, request.connection)
  local state = { handle = handle, url = url, source = request.source, timeout = request.timeout }
  state.guard = internal.closer(core.http_close, handle)
  request.is_piecewise = request.source ~= nil
  local ok, response = pcall(run_steps, request, state)
  if not ok then
    close(state)
    error(response, 0)
  end
  return response
end

local function perform(request)
  while true do
    local fetch = (request.stream or request.source) and fetch_steps or fetch_whole
    local response = fetch(request)
    if response then return response end
  end
end

local function check_status(request, response)
  local status = response.status
  if status < 400 then return end
  local body = response.body
  response:close()
  local quoted = body and body ~= '' and ': ' .. body:sub(1, QUOTED) or ''
  local e = make_error(status >= 500 and 'ServerError' or 'CallError', ('%s %s was answered with %d %s%s'):format(
    request.method, response.url, status, response.reason, quoted), status)
  e.value = { status = status, reason = response.reason, url = response.url, body = body }
  error(e, 0)
end

--- Runs the request within its time.
local function perform_within(request)
  local seconds = request.timeout
  if not seconds then return perform(request) end
  local limit = yue.now() + seconds
  local ok, response = pcall(core.with_deadline, seconds, perform, request)
  if ok then return response end
  if internal.is_error(response) and response.type == 'TimeoutError' and yue.now() >= limit then
    local text = '%s %s was not answered within %g s; raise timeout if it needs longer'
    response = make_error('TimeoutError', text:format(request.method, request.url, seconds))
  end
  error(response, 0)
end

-- -- Clients ---------------------------------------------------------------------------------------------------------

--- The client of this loop's requests that name none.
local shared

local function shared_client()
  shared = shared or { handle = core.http_client(IDLE_MAX, IDLE_TIME), options = {} }
  return shared
end

local function option(client, o, key, default)
  if o[key] ~= nil then return o[key] end
  if client.options[key] ~= nil then return client.options[key] end
  return default
end

local function full_url(name, client, url)
  if type(url) ~= 'string' then fail(name, 'the URL is a string, not %s', describe_value(url)) end
  local base = client.options.base
  if not base or find(url, '^%a[%w+.-]*://') then return url end
  return (base:gsub('/+$', '')) .. '/' .. (url:gsub('^/+', ''))
end

local function connection_of(client, o)
  local chosen
  for key in pairs(CONNECTION) do
    local value = option(client, o, key)
    if value ~= nil then
      chosen = chosen or {}
      chosen[key] = value
    end
  end
  return chosen
end

local function headers_of(name, client, o, content_type)
  if o.headers == nil and content_type == nil and client.options.headers == nil then
    return DEFAULT_HEADERS, DEFAULT_PACKED
  end
  local all = {}
  for key, value in pairs(DEFAULT_HEADERS) do all[key] = value end
  all['content-type'] = content_type
  add_headers(name, all, client.options.headers)
  add_headers(name, all, o.headers)
  return all
end

local function send(name, client, method, url, o)
  if not client.handle then
    error(make_error('RuntimeError', name .. ': the client is closed'), 0)
  end
  local body, source, content_type = body_of(name, o)
  local headers, packed = headers_of(name, client, o, content_type)
  local request = {
    client = client.handle, method = method, url = with_query(name, full_url(name, client, url), o.query),
    headers = headers, packed = packed, body = body, source = source, socket = option(client, o, 'socket'),
    connection = connection_of(client, o), timeout = option(client, o, 'timeout', TIMEOUT),
    body_max = option(client, o, 'body_max', BODY_MAX), redirects = option(client, o, 'redirects', REDIRECTS),
    stream = o.stream, followed = 0,
  }
  local response = perform_within(request)
  if option(client, o, 'check') then check_status(request, response) end
  return response
end

local METHODS = { get = 'GET', head = 'HEAD', delete = 'DELETE', post = 'POST', put = 'PUT', patch = 'PATCH' }
local WITH_BODY = { post = true, put = true, patch = true }

local function send_with(name, client, method, url, body, options)
  local o = check_options(name, options, OPTIONS)
  if body ~= nil then
    if o.body ~= nil then fail(name, 'the body is given twice') end
    local copy = {}
    for key, value in pairs(o) do copy[key] = value end
    copy.body = body
    o = copy
  end
  return send(name, client, method, url, o)
end

local REQUEST = { url = 'any', method = 'string' }

local function send_table(name, client, o)
  if type(o) ~= 'table' then
    fail(name, "it takes a table { url = …, method = 'GET', … }, not %s", describe_value(o))
  end
  check_options(name, o, OPTIONS, REQUEST)
  return send(name, client, upper(o.method or 'GET'), o.url, o)
end

local Client = internal.new_class 'http client'

function Client:__tostring()
  return 'http client' .. (self.handle and '' or ' (closed)')
end

for word, method in pairs(METHODS) do
  local name, own = 'yue.http.' .. word, 'client:' .. word
  if WITH_BODY[word] then
    http[word] = function(url, body, options) return send_with(name, shared_client(), method, url, body, options) end
    Client[word] = function(self, url, body, options) return send_with(own, self, method, url, body, options) end
  else
    http[word] = function(url, options) return send_with(name, shared_client(), method, url, nil, options) end
    Client[word] = function(self, url, options) return send_with(own, self, method, url, nil, options) end
  end
end

--- Sends the request that the table describes, and returns the answer.
function http.request(o)
  return send_table('yue.http.request', shared_client(), o)
end

--- Like `yue.http.request`, with the client's options.
function Client:request(o)
  return send_table('client:request', self, o)
end

--- A client with connections and default options of its own.
function http.client(options)
  local name = 'yue.http.client'
  options = check_options(name, options, OPTIONS, CLIENT_OPTIONS)
  for _, key in ipairs { 'body', 'json', 'form', 'query', 'stream' } do
    if options[key] ~= nil then fail(name, 'the option %s is for single requests', key) end
  end
  local kept = {}
  for key, value in pairs(options) do kept[key] = value end
  -- Raises now, and not at the first request.
  add_headers(name, {}, kept.headers)
  if kept.base then kept.base = kept.base:gsub('[?#].*$', '') core.http_url(kept.base) end
  local handle = core.http_client(kept.idle_max or IDLE_MAX, kept.idle_time or IDLE_TIME)
  return setmetatable({ handle = handle, options = kept, guard = internal.closer(core.http_forget, handle) }, Client)
end

--- The number of connections that wait for the next request.
function Client:idle()
  return self.handle and core.http_idle(self.handle) or 0
end

--- Closes the idle connections, and refuses further requests. Those that run end as they would have.
function Client:close()
  if not self.handle then return end
  core.http_close_idle(self.handle)
  core.http_forget(self.handle)
  self.handle = nil
end
