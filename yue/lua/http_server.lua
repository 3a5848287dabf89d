-- The HTTP server: connections are served, and listeners are made.
--
-- One call of `internal.serve_http` serves a connection, in the connection's own fiber, from its first request to its
-- last.
local core, yue, internal = ...
local setmetatable, getmetatable, type, pairs, select = setmetatable, getmetatable, type, pairs, select
local error, xpcall = error, xpcall
local find, gsub, match = string.find, string.gsub, string.match
local concat, sort = table.concat, table.sort
local wrap, describe_value, to_text = internal.wrap, internal.describe_value, internal.to_text
local routes_api, Request = internal.http_routes, internal.HttpRequest
local look_up, route_error = routes_api.look_up, routes_api.error
local answer, answer_with, is_iterator = internal.http_answer, internal.http_answer_with, internal.http_is_iterator
local development = internal.development
local http_next, http_answer, http_end = core.http_next, core.http_answer, core.http_end

local http = yue.http or {}
yue.http = http

local servers = {}

-- As `core.http_answer` numbers the types of bodies.
local TEXT = 1

local NOT_FOUND, FAILED = 'there is nothing at this path\n', 'the server failed to answer this request\n'

local function warn(req, what, e)
  local level = (e.type == 'CancelledError' or e.type == 'ConnectionLostError') and 'debug' or 'error'
  local method = req.method .. ' ' .. req.path
  local facts = { method = method, peer = req.peer }
  internal.log_failure(level, ('%s %s failed, asked by %s'):format(what, method, req.peer), e, facts, core.log_limited)
end

local function upgrade(req, listener)
  local status, text = core.http_upgrade(req.link.connection, listener._id)
  if not status then
    req.answered, req.upgraded = true, true
    return
  end
  if status == 403 then
    local origin = req:header 'origin' or 'no origin'
    core.log_limited('warn', ('a page of %s was refused at %s: %s'):format(origin, req.path, text), '', '')
  end
  local headers = status == 426
    and { upgrade = 'websocket', connection = 'upgrade', ['sec-websocket-version'] = '13' } or nil
  return answer(req, status, text .. '\n', headers)
end

--- Answers a request by its route.
local function route(server, req)
  local tree = server.tree
  local method = req.method
  local routes, values, refused = look_up(tree, req.path)
  if not routes then
    if refused == 400 then return answer(req, 400, 'the path has an escape that is malformed\n') end
    if req.path == '*' and method == 'OPTIONS' then
      return answer(req, 204, nil, { allow = concat(routes_api.METHODS, ', ') })
    end
    return answer(req, 404, NOT_FOUND)
  end
  local found = routes[method]
  if routes.WS and method == 'GET' and (not (found or routes.ANY) or req:header 'upgrade') then found = routes.WS end
  if not found and method == 'HEAD' then found = routes.GET end
  found = found or routes.ANY
  if not found then
    if method == 'OPTIONS' then return answer(req, 204, nil, { allow = routes_api.allowed(routes) }) end
    return answer(req, 405, 'this method is not allowed here\n', { allow = routes_api.allowed(routes) })
  end
  local names = found.names
  if names[1] then
    local params = {}
    for i = 1, #names do params[names[i]] = values[i] end
    req.params = params
    if found.has_rest then req.rest = values[#names] end
  end
  return found.handler(req)
end

--- The values of a route's handler are the answer, unless it has answered by itself.
local function finish(req, ...)
  if req.answered then
    if req.writer then req.writer:close() end
    return
  end
  if development then return answer_with(req, development.with_script(req, ...)) end
  return answer_with(req, ...)
end

local function handle(server, req)
  if development and development.handle(req) then return end
  local before = server.before
  if before then
    local first, second, third = before(req)
    if req.answered or first ~= nil then return finish(req, first, second, third) end
  end
  return finish(req, server.handler(server, req))
end

--- A handler failed, or its answer cannot be sent.
local function refuse(req, e)
  if req.answered then
    -- The head has left: that the rest is missing shows by the connection's end.
    if e.type ~= 'ConnectionLostError' then warn(req, 'the body of the answer to', e) end
    return http_end(req.link.connection, false)
  end
  local status, text = e.http_status, nil
  if status then
    text = to_text(e.msg) .. '\n'
  else
    warn(req, 'the handler of', e)
    status, text = 500, FAILED
  end
  http_answer(req.link.connection, status, text, TEXT, nil, req.closes)
  req.answered = true
end

--- Serves a connection; the native side calls it in the connection's fiber.
function internal.serve_http(number, connection, peer)
  local server = servers[number]
  local fiber = core.current()
  local link = { connection = connection, peer = peer, server = server }
  while server do
    local method, path, query, minor = http_next(connection)
    if not method then return end
    -- The fiber may have waited here while code was reloaded; the request begins now.
    internal.begin_call()
    local req = setmetatable({
      link = link, method = method, path = path, query_string = query, answered = false, ended = false,
    }, Request)
    if minor ~= 1 then req.minor = minor end
    local ok, e = xpcall(handle, wrap, server, req)
    if not ok then refuse(req, e) end
    req.ended = true
    internal.end_record(fiber, true)
    if req.upgraded then return end
  end
end

-- -- Listeners -------------------------------------------------------------------------------------------------------

--- Options, with the type and the default of each. Times are seconds, sizes bytes.
local OPTIONS = {
  before = 'function', -- of each request, before its route
  connections_max = 'count',
  head_max = 'count',
  headers_max = 'count',
  body_max = 'count', -- of a body that is read as a whole
  head_timeout = 'number', -- for a head, from its first byte
  idle_timeout = 'number', -- without a request
  body_timeout = 'number', -- for each kilobyte of a body
  write_timeout = 'number', -- for the client to read anything
  handshake_timeout = 'number', -- of TLS
  keepalive = 'number or false',
  cert = 'string',
  key = 'string',
  client_ca = 'string',
}
local DEFAULTS = {
  head_max = 16 * 1024, headers_max = 100, body_max = 2 ^ 20, head_timeout = 10, idle_timeout = 60, body_timeout = 10,
  write_timeout = 30,
}

local Server = internal.emitter_class {}
Server.__tostring = function(self)
  return ('HTTP server at %s%s'):format(self.address, self.closed and ' (closed)' or '')
end

--- The listener's address; a port 0 is resolved.
function Server:addr()
  return self.address
end

--- The beginning of its URLs, without a slash at the end; nil for a Unix socket.
function Server:url()
  local scheme, rest = match(self.address, '^(%a+)://(.*)$')
  if scheme == 'tcp' then return 'http://' .. rest end
  if scheme == 'tls' then return 'https://' .. rest end
end

--- The number of open connections.
function Server:connections()
  return (core.http_connections(self.id))
end

--- Reads the files of its TLS certificate again.
function Server:reload()
  core.http_reload(self.id)
end

--- Stops listening. Idle connections end now, the others after their request; streams are cut.
function Server:on_close()
  internal.end_certificates(self)
  for i = 1, #self.websockets do self.websockets[i]:close() end
  core.http_server_close(self.id)
  servers[self.id] = nil
end

local WebSocket = {}
WebSocket.__index = WebSocket
WebSocket.__tostring = function() return 'functions by WebSocket' end

--- Functions that clients may call by WebSocket, for a route `WS /path`.
function http.websocket(options, symbols, ...)
  if select('#', ...) > 0 then internal.argument_error 'yue.http.websocket takes options and symbols' end
  if symbols == nil then options, symbols = nil, options end
  local checked = internal.check_endpoint_options('yue.http.websocket', options, true)
  for _, name in pairs { 'ws', 'http', 'cert', 'key', 'client_ca' } do
    if checked[name] ~= nil then
      internal.argument_error(('yue.http.websocket: the option %s is for listeners with a socket'):format(name))
    end
  end
  return setmetatable({ options = checked, symbols = symbols }, WebSocket)
end

--- The handler of a route, as the program gave it.
local function make_handler(server, key, method, path, value)
  if method == 'WS' then
    if not core.http_websocket then route_error(key, 'this yue was built without the feature ws') end
    local socket = getmetatable(value) == WebSocket and value or http.websocket(value)
    if find(path, '[:*]') then route_error(key, 'the path of a WebSocket has no parameters') end
    local namespace = internal.new_namespace(socket.symbols)
    server.pending[#server.pending + 1] = function()
      local listener = internal.new_listener(namespace, socket.options, core.http_websocket(
        path, socket.options, namespace.layers, internal.ports_of(socket.options), server.id))
      server.websockets[#server.websockets + 1] = listener
      server.websockets[path] = listener
    end
    return function(req) return upgrade(req, server.websockets[path]) end
  end
  if getmetatable(value) == WebSocket then route_error(key, "functions by WebSocket have a route 'WS /path'") end
  if is_iterator(value) then return value end
  if type(value) == 'string' then return function() return 200, value end end
  if type(value) == 'table' then return function() return 200, value end end
  route_error(key, 'a route is a function(req), or its answer: a string, or a table for JSON; not '
    .. describe_value(value))
end

local function check_serve_options(options)
  if options == nil then return {} end
  if type(options) ~= 'table' then
    internal.argument_error('yue.http.serve: the options are a table, not ' .. describe_value(options))
  end
  for name, value in pairs(options) do
    local wanted = OPTIONS[name]
    if not wanted then
      local names = {}
      for each in pairs(OPTIONS) do names[#names + 1] = each end
      sort(names)
      internal.argument_error(('yue.http.serve has no option %s; it has: %s'):format(
        to_text(name), concat(names, ', ')))
    end
    local fault
    if wanted == 'function' then
      if not internal.is_callable(value) then fault = 'a function, not ' .. describe_value(value) end
    else
      fault = internal.option_fault(wanted, value)
    end
    if fault then internal.argument_error(('yue.http.serve: the option %s is %s'):format(name, fault)) end
  end
  return options
end

--- `yue.http.serve(addr [, options], routes)`: serves HTTP. `routes` is a table of handlers by method and path, or one
--- function for every request.
function http.serve(addr, ...)
  local count = select('#', ...)
  local options, routes = ...
  if count < 2 then options, routes = nil, options end
  if type(addr) ~= 'string' then
    internal.argument_error(
      'yue.http.serve takes an address, such as tcp://127.0.0.1:8080, not ' .. describe_value(addr))
  end
  if count > 2 then internal.argument_error 'yue.http.serve takes an address, options and routes' end
  options = check_serve_options(options)
  addr = gsub(gsub(addr, '^http://', 'tcp://'), '^https://', 'tls://')
  if find(addr, '^%a+://') and not (find(addr, '^tcp://') or find(addr, '^tls://') or find(addr, '^unix://')) then
    internal.argument_error(
      ('yue.http.serve: an address is tcp://host:port, tls://host:port or unix:///path, not %s'):format(addr))
  end
  local server = internal.new_emitter(Server, { address = addr, websockets = {}, pending = {} })
  server.before = options.before
  server.body_max = options.body_max or DEFAULTS.body_max
  if internal.is_callable(routes) then
    server.handler = function(_, req) return routes(req) end
  elseif type(routes) == 'table' then
    server.tree = routes_api.make(routes, function(...) return make_handler(server, ...) end)
    server.handler = route
  else
    internal.argument_error(
      "yue.http.serve takes routes, a table like { ['GET /'] = function(req) … end }, or a function, not "
        .. describe_value(routes))
  end
  local function limit(name) return options[name] or DEFAULTS[name] end
  server.id, server.address = core.http_listen(addr, options, limit 'head_max', limit 'headers_max',
    limit 'head_timeout', limit 'idle_timeout', limit 'body_timeout', limit 'write_timeout')
  servers[server.id] = server
  for i = 1, #server.pending do server.pending[i]() end
  server.pending = nil
  internal.begin_certificates(server, options)
  internal.adopt_current(server)
  if development and server:url() then core.development_serves(server:url()) end
  return server
end
