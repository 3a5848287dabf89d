-- Listening, opening, connection objects, and the callbacks of a connection's life.
local core, yue, internal = ...
local setmetatable, type, select, error, rawget = setmetatable, type, select, error, rawget
local Emitter, wrap = internal.Emitter, internal.wrap

--- Options, with the type of each. Times are seconds, sizes bytes; numbers are above 0, and counts at least 1.
local OPTIONS = {
  timeout = 'number', -- of a call, unless the call says otherwise
  no_cache = 'boolean', -- open: a separate connection, not a shared one
  retry = 'boolean', -- open: keep trying even when the first attempt is refused
  reconnect = 'boolean', -- open: reconnect when the link is lost (true)
  legacy = 'boolean', -- open: plain msgpack-rpc, no hello
  cancel = 'boolean', -- callers may stop handlers of this side that have started
  describe = 'boolean', -- peers may list the functions of this side (true)
  chunks = 'boolean', -- large answers travel in chunks, which other messages overtake (true)
  traceback = 'boolean', -- errors of handlers travel with their tracebacks (over unix:// and thread:// only)
  message_max = 'count',
  nesting_max = 'count',
  decoded_max = 'count',
  in_flight_max = 'count',
  held_max = 'count',
  output_high = 'count', -- above it callers wait
  output_max = 'count', -- above it notifications follow `when_full`
  when_full = { close = true, drop = true },
  rate = 'rate', -- of the peer's calls: { calls = a second, burst = at once }
  references_max = 'count',
  connections_max = 'count', -- listen: and so are the next two
  handlers_max = 'count',
  memory_max = 'count',
  message_time = 'number',
  handshake_timeout = 'number',
  keepalive = 'number or false', -- tcp, tls, ws: seconds after which a lost peer is noticed (50)
  cert = 'string', -- tls: a PEM file, or its text; and so are the next three
  key = 'string',
  ca = 'string', -- open: the authorities that may have signed the server's certificate
  client_ca = 'string', -- listen: those that must have signed a client's
  server_name = 'string', -- open: the name in the server's certificate
  insecure = 'boolean', -- open: accept every server
  origins = 'origins', -- listen, ws: the origins whose pages may connect
  ws = 'boolean', -- listen, tcp, tls, unix: clients may also connect by WebSocket
  http = 'http', -- listen, tcp, tls, unix: clients may also call by HTTP; see ports.lua
  peer_idle = 'number', -- listen, udp, mcast: seconds after which a silent peer is forgotten (60)
  interface = 'string', -- mcast: the network interface, by its name or IPv4 address
  ttl = 'count', -- mcast: the number of networks that datagrams to the group may cross (1)
  loopback = 'boolean', -- mcast: members on this machine get them, too (true)
}

--- Those that only one side has, and what an error says of them.
local ONLY = { listen = {}, open = {} }
for _, name in ipairs { 'connections_max', 'handlers_max', 'memory_max', 'origins', 'peer_idle' } do
  ONLY.listen[name] = 'is for yue.listen'
end
for _, name in ipairs { 'ws', 'http' } do
  ONLY.listen[name] = 'is for listeners; to open a WebSocket, use a ws:// address'
end
for _, name in ipairs { 'no_cache', 'retry', 'reconnect', 'legacy' } do
  ONLY.open[name] = 'is for yue.open'
end

yue.config = setmetatable({}, {
  __index = function(_, key)
    if key == 'timeout' then return core.get_timeout() end
  end,
  __newindex = function(_, key, value)
    if key ~= 'timeout' then internal.argument_error('yue.config has no setting ' .. tostring(key)) end
    if type(value) ~= 'number' or not (value > 0) then
      internal.argument_error('yue.config.timeout is a number of seconds above 0')
    end
    core.set_timeout(value)
  end,
})

--- Raises if a table given as symbols can only be meant as options.
local function check_not_options(name, symbols)
  if type(symbols) ~= 'table' or next(symbols) == nil then return end
  for key, value in pairs(symbols) do
    if not OPTIONS[key] or type(value) == 'function' or type(value) == 'table' then return end
  end
  internal.argument_error(
    ('%s(addr, symbols): the second of two arguments is symbols, but these keys are options; '
      .. 'to give options write %s(addr, options, symbols), symbols may be nil'):format(name, name)
  )
end

--- The fault in the value of an option; nil if there is none.
local function option_fault(wanted, value)
  if type(wanted) == 'table' then
    if type(value) == 'string' and wanted[value] then return nil end
    local choices = {}
    for choice in pairs(wanted) do choices[#choices + 1] = ("'%s'"):format(choice) end
    table.sort(choices)
    local given = type(value) == 'string' and ('%q'):format(value) or internal.describe_value(value)
    return table.concat(choices, ' or ') .. ', not ' .. given
  end
  local function positive(number) return type(number) == 'number' and number > 0 end
  if wanted == 'rate' then
    if type(value) ~= 'table' then return 'a table { calls = n, burst = m }, not ' .. internal.describe_value(value) end
    for key, number in pairs(value) do
      if key ~= 'calls' and key ~= 'burst' then
        return 'a table { calls = n, burst = m }, without ' .. internal.to_text(key)
      end
      if not positive(number) or (key == 'burst' and number < 1) then
        return ('a table whose %s is a number above 0, not %s'):format(key, internal.describe_value(number))
      end
    end
    if not value.calls then return 'a table { calls = n, burst = m }, and calls is missing' end
    return nil
  end
  if wanted == 'http' then return internal.http_fault(value) end
  if wanted == 'origins' then
    if type(value) ~= 'table' then return 'a list of origins, not ' .. internal.describe_value(value) end
    for key, origin in pairs(value) do
      local is_origin = type(origin) == 'string'
        and (origin == '*' or origin == 'null' or origin:find '^%a[%w+.-]*://[^/%s]+$')
      if type(key) ~= 'number' or not is_origin then
        local given = type(origin) == 'string' and ('%q'):format(origin) or internal.describe_value(origin)
        return "a list of origins like 'https://example.com' (without a path) or '*', not " .. given
      end
    end
    return nil
  end
  local fits = type(value) == wanted
  if wanted == 'number' then fits = positive(value) end
  if wanted == 'count' then fits = positive(value) and value >= 1 end
  if wanted == 'number or false' then fits = positive(value) or value == false end
  if fits then return nil end
  local what = wanted:gsub('number', 'number above 0'):gsub('count', 'number of at least 1')
  return ('a %s, not %s'):format(what, internal.describe_value(value))
end

internal.option_fault = option_fault

local function check_options(name, options, is_listener)
  if options == nil then return {} end
  if type(options) ~= 'table' then internal.argument_error(name .. ': options are a table') end
  for key, value in pairs(options) do
    local wanted = OPTIONS[key]
    if not wanted then internal.argument_error(('%s: there is no option %s'):format(name, tostring(key))) end
    local fault = option_fault(wanted, value)
    if fault then internal.argument_error(('%s: the option %s is %s'):format(name, key, fault)) end
    local misplaced = ONLY[(is_listener or name == 'yue.listen') and 'open' or 'listen'][key]
    if misplaced then internal.argument_error(('%s: the option %s %s'):format(name, key, misplaced)) end
  end
  local high, max = options.output_high, options.output_max
  if high and max and max < high then
    internal.argument_error(('%s: the option output_max is at least output_high, %s, not %s'):format(name, high, max))
  end
  return options
end

internal.check_endpoint_options = check_options

--- Distinguishes (addr, symbols) from (addr, options, symbols).
local function arguments(name, count, addr, first, second)
  if type(addr) ~= 'string' then
    internal.argument_error(
      ('%s takes an address, such as tcp://localhost:8080, not %s'):format(name, internal.describe_value(addr))
    )
  end
  if count > 3 then internal.argument_error(name .. ' takes an address, options and symbols') end
  if count < 3 then
    check_not_options(name, first)
    return addr, {}, first
  end
  return addr, check_options(name, first), second
end

-- -- Connections ---------------------------------------------------------------------------------------------------

local Connection = internal.emitter_class { 'open', 'accept', 'close', 'timeout', 'full' }
internal.Connection = Connection
Connection.__tostring = function(self)
  return ('connection to %s%s'):format(self._address, self.closed and ' (closed)' or '')
end

-- By number. An opened connection lives as long as the program can reach it: by its object, its procedures, a future or
-- a function of it. The object of an accepted one lives as long as the connection does, with everything that a program
-- stores in it; so does that of an opened one which has callbacks.
local connections = setmetatable({}, { __mode = 'v' })
local held = {}

internal.connections = connections

--- Open listeners, by the number of their native service.
local listeners = {}
internal.listeners = listeners

--- The line of the program that called yue, for reports.
local function calling_line()
  for level = 3, 20 do
    local info = debug.getinfo(level, 'Sl')
    if not info then return nil end
    if info.currentline > 0 and info.short_src:sub(1, 6) ~= '[yue]/' then
      return info.short_src .. ':' .. info.currentline
    end
  end
end

local function connection_of(id, namespace)
  local connection = connections[id]
  if not connection then
    connection = internal.new_emitter(Connection, { _id = id, _names = namespace, _address = core.address(id) })
    connection.procs = internal.new_proxy(connection, id)
    connection.namespace = namespace and namespace.view
    connections[id] = connection
    if core.is_accepted(id) then
      if core.is_closed(id) then
        connection.closed = true
      else
        held[id] = connection
        core.know(id)
      end
    end
  end
  return connection
end

internal.connection_of = connection_of

local function forget(connection)
  held[connection._id] = nil
  internal.forget_groups(connection)
  internal.forget_latest(connection)
  -- That of an accepted one is its listener's.
  if connection._names and connection._names.is_opened then internal.end_namespace(connection._names) end
  internal.end_emitter(connection)
end

--- Like every emitter's; the events are `open`, `accept`, `close`, `timeout` and `full`.
function Connection:bind(events, fn)
  if not self.closed then core.watch(self._id) end
  local bound = Emitter.bind(self, events, fn)
  held[self._id] = self
  return bound
end

function Connection:wait(event, timeout)
  if not self.closed then core.watch(self._id) end
  return Emitter.wait(self, event, timeout)
end

--- The address of the peer.
function Connection:addr()
  return self._address
end

--- The name of the peer in its TLS certificate, which this side has verified; nil if it showed none.
function Connection:peer_name()
  return core.peer_name(self._id)
end

--- Whether calls go out at once: the link is up and granted.
function Connection:connected()
  return core.connected(self._id)
end

--- The connection's counts, as a table. An opened one also has the counts of this side's methods that the peer called;
--- those of an accepted one are in the listener's.
function Connection:stats()
  local stats = core.stats(self._id)
  stats.notifications_dropped = stats.notifications_dropped + (self._latest_dropped or 0)
  if not core.is_accepted(self._id) then stats.methods = core.method_stats(self._id) end
  return stats
end

--- Adds to the functions that the peer may call.
function Connection:import(symbols)
  if not self._names then error(yue.errors.ConnectionLostError.new('the connection is closed'), 0) end
  internal.import(self._names, symbols)
end

local cache = {} -- opened connections that are shared, by address and options

--- The key of a shared connection: opens of one address share a connection if their options are the same, too.
local function cache_key(addr, options)
  local parts = {}
  for key, value in pairs(options) do
    if key == 'origins' then value = table.concat(value, ',') end
    -- The other table is `rate`.
    if type(value) == 'table' then value = ('%.17g/%.17g'):format(value.calls, value.burst or 0) end
    if type(value) == 'number' then value = ('%.17g'):format(value) end
    if type(value) == 'string' then value = ('%q'):format(value) end
    if key ~= 'no_cache' then parts[#parts + 1] = ('%s=%s'):format(key, tostring(value)) end
  end
  if #parts == 0 then return addr end
  table.sort(parts)
  -- No address contains a line break.
  return addr .. '\n' .. table.concat(parts, '\n')
end

--- Closes the connection for good. Callbacks bound to `close` run when it has ended.
function Connection:close(reason)
  if self.closed then return end
  local text = reason == nil and '' or internal.to_text(reason)
  self.closed = true
  internal.forget_latest(self)
  if self._cached and cache[self._cached] == self then cache[self._cached] = nil end
  core.close(self._id, text)
  if core.is_closed(self._id) or not (next(self._bindings) or self._waiting) then forget(self) end
end

--- The connection object of an address: `.procs`, `.namespace`, `:addr()`, `:close()`, `:connected()`, `:stats()`, and
--- an emitter of `open`, `accept`, `close`, `timeout` and `full`.
local function socket(name, count, ...)
  local addr, options, symbols = arguments(name, count, ...)
  local shared = symbols == nil and not options.no_cache
  local key = shared and cache_key(addr, options)
  local known = shared and cache[key]
  if known then
    -- A connection that a client opened and others use too does not belong to the client, which must not close it.
    if known.scope and known.scope ~= internal.current().scope then internal.disown(known) end
    return known
  end
  local namespace = internal.new_namespace(symbols)
  namespace.is_opened = true
  local id = core.open(addr, options, namespace.layers)
  local connection = connection_of(id, namespace)
  connection._opened_at = calling_line()
  if shared then
    connection._cached = key
    cache[key] = connection
  else
    internal.guard_collection(connection, function() core.close_later(id) end)
  end
  internal.adopt_current(connection)
  return connection
end

--- Calls `fn` when `object` is collected. `fn` may only record something.
function internal.guard_collection(object, fn)
  local sentinel = newproxy(true)
  getmetatable(sentinel).__gc = fn
  object.sentinel = sentinel
end

function yue.socket(...)
  return socket('yue.socket', select('#', ...), ...)
end

--- The procedures of the peer. Returns at once; the first call connects.
function yue.open(...)
  return socket('yue.open', select('#', ...), ...).procs
end

--- The connection that the running handler was called through; nil elsewhere.
function yue.peer()
  local id = core.peer()
  if id then return connection_of(id, internal.names_of[core.service_of(id)]) end
end

--- The remaining seconds of the running handler's caller, 0 if its time has passed; nil if it set no limit, and outside
--- handlers. A handler that has started keeps running in any case, unless the option `cancel` is set.
function yue.deadline()
  return core.deadline()
end

-- -- Listeners -----------------------------------------------------------------------------------------------------

local Listener = internal.emitter_class { 'accept', 'close' }
Listener.__tostring = function(self)
  return ('listener at %s%s'):format(self._address, self.closed and ' (closed)' or '')
end

internal.names_of = {} -- namespaces by the number of the native service

--- The object of a listener that serves the namespace.
function internal.new_listener(namespace, options, id, resolved, service)
  local listener = internal.new_emitter(Listener, { _id = id, _address = resolved, _names = namespace })
  listener.service = service
  listener.namespace = namespace.view
  internal.names_of[service], listeners[service] = namespace, listener
  internal.begin_ports(listener, options)
  return listener
end

--- Serves `symbols` at the address.
local function listen(name, count, ...)
  local addr, options, symbols = arguments(name, count, ...)
  local namespace = internal.new_namespace(symbols)
  local ports = internal.ports_of(options)
  local listener = internal.new_listener(namespace, options, core.listen(addr, options, namespace.layers, ports))
  internal.adopt_current(listener)
  if addr == 'stdio://' then
    -- It has one connection: when that has ended, nothing can come any more.
    for _, connection in ipairs(listener:connections()) do
      connection:bind('close', function() listener:close() end)
    end
  end
  return listener
end

function yue.listen(...)
  return listen('yue.listen', select('#', ...), ...)
end

yue.server = yue.listen

--- The listener's address; a port 0 is resolved.
function Listener:addr()
  return self._address
end

--- The open connections that it accepted: a list of connection objects.
function Listener:connections()
  local list = {}
  for i, id in ipairs(core.listener_connections(self._id)) do
    list[i] = connection_of(id, self._names)
  end
  return list
end

--- Adds functions that may be called, while serving.
function Listener:import(symbols)
  internal.import(self._names, symbols)
end

--- Reads the files of its TLS certificate again; raises if one cannot be used, and keeps the old certificate.
function Listener:reload()
  core.reload_listener(self._id)
end

--- The present usage of its connections: `connections`, `requests_in_flight`, `memory` (bytes); handshakes of TLS and
--- WebSocket under way (`handshakes`), and those that failed (`handshakes_failed`); and the counts of each method, by
--- name: `methods.f` has `calls`, `errors`, and `time` (seconds, waits included). Once it is closed: the last values.
function Listener:stats()
  local stats, methods = core.listener_stats(self._id)
  if not stats then return self.last_stats or {} end
  stats.methods = methods
  return stats
end

--- Stops listening and closes the connections that it accepted.
function Listener:on_close()
  self.last_stats = self:stats()
  core.close_listener(self._id)
  internal.names_of[self.service], listeners[self.service] = nil, nil
  internal.end_namespace(self._names)
  internal.end_ports(self)
end

--- Like every emitter's. The events are `accept` (a connection was granted) and `close` (a granted connection has
--- ended); callbacks receive the connection, and the reason.
function Listener:bind(events, fn)
  local bound = Emitter.bind(self, events, fn)
  core.watch_service(self._id)
  return bound
end

function Listener:wait(event, timeout)
  if not self.closed then core.watch_service(self._id) end
  return Emitter.wait(self, event, timeout)
end

-- -- Callbacks of a connection's life --------------------------------------------------------------------------------

local CALLBACKS = internal.callbacks

--- Runs the namespace's callback for the event: returns whether there is one, and its result.
local function ask_callback(moment, connection, layers, payload)
  local name = CALLBACKS[moment]
  for i = #layers, 1, -1 do
    local callback = name and rawget(layers[i], name)
    if callback then return true, callback(connection, payload) end
  end
  -- No callback: the event has its default effect.
  return false
end

--- Called by the RPC layer, in a new fiber, at an event that is bound or has a callback: returns whether there is a
--- callback, and its result.
function internal.connection_event(moment, id, layers, payload)
  local service = core.service_of(id)
  local connection = connection_of(id, internal.names_of[service])
  if moment == 'room' then
    internal.send_latest(connection)
    return false
  end
  local listener, by_http = listeners[service], connection._address:find '^https?[:+]'
  connection:emit(moment, payload)
  if moment == 'close' then
    if listener and not connection._refused and not by_http then listener:emit('close', connection, payload) end
    if connection.closed or core.is_accepted(id) then forget(connection) end
  end
  -- Nobody accepted it, so no callback knows it.
  if by_http then return false end
  if moment ~= 'accept' then return ask_callback(moment, connection, layers, payload) end
  -- Until the callback has granted it; if that raises, for good.
  connection._refused = true
  local has, result = ask_callback(moment, connection, layers, payload)
  connection._refused = has and not result
  if listener and not connection._refused then listener:emit('accept', connection) end
  return has, result
end

--- The parts of an error that a handler raised, to be sent to the caller: type, code, message, traceback,
--- retryable, value.
function internal.describe_failure(e)
  if not internal.is_error(e) then e = wrap(e) end
  local text = internal.to_text
  local code, bt, retryable = tonumber(e.code) or -1, e.bt and text(e.bt), e.retryable and true or false
  return text(e.type), code, text(e.msg), bt, retryable, e.value
end

--- Marks a table so that it travels as a map, even if it is empty or a sequence.
function yue.map(t)
  if type(t) ~= 'table' then internal.argument_error('yue.map takes a table, not ' .. internal.describe_value(t)) end
  return core.map(t)
end

--- Marks a table so that it travels as an array, even if elements of it are nil.
function yue.array(t)
  if type(t) ~= 'table' then internal.argument_error('yue.array takes a table, not ' .. internal.describe_value(t)) end
  return core.array(t)
end

--- A value that travels as nil, for elements of tables. It is also the null of lua-cjson.
yue.null = core.null
