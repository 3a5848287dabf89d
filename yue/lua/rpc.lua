-- Listening, opening, connection objects, and the callbacks of a connection's life.
local core, yue, internal = ...
local setmetatable, type, select, error, xpcall = setmetatable, type, select, error, xpcall
local Emitter, wrap = internal.Emitter, internal.wrap

--- Options, with the type of each. Times are seconds, sizes bytes.
local OPTIONS = {
  timeout = 'number', -- of a call, unless the call says otherwise
  no_cache = 'boolean', -- open: a connection of one's own
  retry = 'boolean', -- open: keep trying even when the first attempt is refused
  reconnect = 'boolean', -- open: connect again when the link is lost (true)
  legacy = 'boolean', -- open: plain msgpack-rpc, no hello
  message_max = 'number',
  nesting_max = 'number',
  in_flight_max = 'number',
  held_max = 'number',
  output_high = 'number',
  references_max = 'number',
  handshake_timeout = 'number',
}

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

local function check_options(name, options)
  if options == nil then return {} end
  if type(options) ~= 'table' then internal.argument_error(name .. ': options are a table') end
  for key, value in pairs(options) do
    local wanted = OPTIONS[key]
    if not wanted then internal.argument_error(('%s: there is no option %s'):format(name, tostring(key))) end
    if type(value) ~= wanted or value ~= value or (wanted == 'number' and value < 0) then
      internal.argument_error(('%s: the option %s is a %s'):format(name, key, wanted))
    end
  end
  return options
end

--- Tells (addr, symbols) from (addr, options, symbols).
local function arguments(name, count, addr, first, second)
  if type(addr) ~= 'string' then internal.argument_error(name .. ' takes an address, such as tcp://localhost:8080') end
  if count > 3 then internal.argument_error(name .. ' takes an address, options and symbols') end
  if count < 3 then
    check_not_options(name, first)
    return addr, {}, first
  end
  return addr, check_options(name, first), second
end

-- -- Connections ---------------------------------------------------------------------------------------------------

local Connection = setmetatable({}, { __index = Emitter })
Connection.__index = Connection
Connection.__tostring = function(self) return 'connection to ' .. self:addr() end

local connections = setmetatable({}, { __mode = 'v' }) -- by number; the cache and the proxies hold them
local held = {} -- connections that are up, so that their callbacks have an object to name

local function connection_of(id, namespace)
  local connection = connections[id]
  if not connection then
    connection = internal.new_emitter(Connection, { id = id, names = namespace })
    connection.procs = internal.new_proxy(connection, id)
    connection.namespace = namespace and namespace.view
    -- When nobody can reach it any more, an accepted connection's object may go; an opened one is closed with it.
    connections[id] = connection
  end
  return connection
end

--- As every emitter's; the events are `open`, `accept`, `close` and `timeout`.
function Connection:bind(events, fn)
  core.watch(self.id)
  return Emitter.bind(self, events, fn)
end

function Connection:wait(event, timeout)
  core.watch(self.id)
  return Emitter.wait(self, event, timeout)
end

--- The address of the other side.
function Connection:addr()
  return core.address(self.id)
end

--- Whether calls go through at once: the link is up and granted.
function Connection:connected()
  return core.connected(self.id)
end

--- What the connection has done: a table of counts.
function Connection:stats()
  return core.stats(self.id)
end

--- Adds to what the other side may call.
function Connection:import(symbols)
  internal.import(self.names, symbols)
end

local cache = {} -- opened connections that are shared, by address

function Connection:on_close()
  if self.cached and cache[self.cached] == self then cache[self.cached] = nil end
  held[self.id] = nil
  core.close(self.id)
end

--- The connection object of an address: `.procs`, `.namespace`, `:addr()`, `:close()`, `:connected()`, `:stats()`, and
--- an emitter of `open`, `accept`, `close` and `timeout`.
local function socket(name, count, ...)
  local addr, options, symbols = arguments(name, count, ...)
  local shared = symbols == nil and not options.no_cache
  if shared and cache[addr] then return cache[addr] end
  local namespace = internal.new_namespace(symbols)
  local id = core.open(addr, options, namespace.layers)
  local connection = connection_of(id, namespace)
  if shared then
    connection.cached = addr
    cache[addr] = connection
  else
    internal.guard_collection(connection, function() core.close_later(id) end)
  end
  internal.adopt_current(connection)
  return connection
end

--- Calls `fn` when `object` is collected. `fn` must only note something.
function internal.guard_collection(object, fn)
  local sentinel = newproxy(true)
  getmetatable(sentinel).__gc = fn
  object.sentinel = sentinel
end

function yue.socket(...)
  return socket('yue.socket', select('#', ...), ...)
end

--- The procedures of the other side. Returns at once; the first call connects.
function yue.open(...)
  return socket('yue.open', select('#', ...), ...).procs
end

--- The connection that the running handler was called through; nil elsewhere.
function yue.peer()
  local id = core.peer()
  if id then return connection_of(id, internal.names_of[core.service_of(id)]) end
end

-- -- Listeners -----------------------------------------------------------------------------------------------------

local Listener = setmetatable({}, { __index = Emitter })
Listener.__index = Listener
Listener.__tostring = function(self) return 'listener at ' .. self.address end

internal.names_of = {} -- namespaces by the number of the native service

--- Serves `symbols` at the address.
local function listen(name, count, ...)
  local addr, options, symbols = arguments(name, count, ...)
  local namespace = internal.new_namespace(symbols)
  local id, resolved, service = core.listen(addr, options, namespace.layers)
  local listener = internal.new_emitter(Listener, { id = id, address = resolved, names = namespace })
  listener.service = service
  listener.namespace = namespace.view
  internal.names_of[service] = namespace
  internal.adopt_current(listener)
  return listener
end

function yue.listen(...)
  return listen('yue.listen', select('#', ...), ...)
end

yue.server = yue.listen

--- The address that it listens at; a port 0 is resolved.
function Listener:addr()
  return self.address
end

--- The connections that it accepted and that are open: a list of connection objects.
function Listener:connections()
  local list = {}
  for i, id in ipairs(core.listener_connections(self.id)) do
    list[i] = connection_of(id, self.names)
  end
  return list
end

--- Adds to what may be called, while serving.
function Listener:import(symbols)
  internal.import(self.names, symbols)
end

--- Stops listening and closes the connections that it accepted.
function Listener:on_close()
  core.close_listener(self.id)
  internal.names_of[self.service] = nil
end

-- -- Callbacks of a connection's life --------------------------------------------------------------------------------

local CALLBACKS = { open = '__open', accept = '__accept', close = '__close', timeout = '__timeout' }

--- Called by the RPC layer, in a fiber of its own, at a moment that something is bound to or has a callback for:
--- whether there is a callback, and its result.
function internal.connection_event(moment, id, layers, payload)
  local namespace = internal.names_of[core.service_of(id)]
  local connection = connection_of(id, namespace)
  connection:emit(moment, payload)
  local name = CALLBACKS[moment]
  for i = #layers, 1, -1 do
    local callback = rawget(layers[i], name)
    if callback then return true, callback(connection, payload) end
  end
  -- No callback: the moment passes as it would without one.
  return false
end

--- The parts of what a handler raised, for its way back to the caller: type, code, message, traceback, retryable,
--- value.
function internal.describe_failure(e)
  if not internal.is_error(e) then e = wrap(e) end
  local code, bt, retryable = tonumber(e.code) or -1, e.bt and tostring(e.bt), e.retryable and true or false
  return tostring(e.type), code, tostring(e.msg), bt, retryable, e.value
end

--- Marks a table so that it travels as a map, even if it is empty or a sequence.
function yue.map(t)
  if type(t) ~= 'table' then internal.argument_error('yue.map takes a table') end
  return core.map(t)
end
