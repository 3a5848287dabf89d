-- Sockets: streams over TCP, TLS and Unix sockets, listeners, datagrams. A wait is the calling fiber's alone.
local core, yue, internal = ...
local type, pairs, tostring, select, setmetatable, error = type, pairs, tostring, select, setmetatable, error
local xpcall, pcall = xpcall, pcall
local find, sub, byte, match = string.find, string.sub, string.byte, string.match
local describe_value = internal.describe_value

-- The seconds for a connection to be made, unless the options say otherwise; TLS included.
local CONNECT_TIMEOUT = 10
-- A line of a protocol is seldom longer, and the peer may be a stranger.
local LINE_MAX = 2 ^ 20
-- The connections that a listener serves at once.
local CONNECTIONS_MAX = 10000

local RETURN = byte '\r'

local net = {}

-- -- Options ---------------------------------------------------------------------------------------------------------

local TLS_CLIENT = { ca = 'string', cert = 'string', key = 'string', server_name = 'string', insecure = 'boolean' }
local TLS_SERVER = { cert = 'string', key = 'string', client_ca = 'string' }

local function with(options, others)
  for name, kind in pairs(others) do options[name] = kind end
  return options
end

local CONNECT_OPTIONS = with({ timeout = 'number', nodelay = 'boolean' }, TLS_CLIENT)
local LISTEN_OPTIONS = with({ timeout = 'number', nodelay = 'boolean', connections_max = 'count' }, TLS_SERVER)
local START_TLS_OPTIONS = { with({ timeout = 'number' }, TLS_CLIENT), with({ timeout = 'number' }, TLS_SERVER) }
local UDP_OPTIONS = { timeout = 'number', broadcast = 'boolean' }

local function check_options(name, options, known)
  options = internal.check_options(name, options, known)
  for key, value in pairs(options) do
    local fault = internal.option_fault(known[key], value)
    if fault then internal.argument_error(('%s: the option %s is %s'):format(name, key, fault)) end
  end
  return options
end

local function check_address(name, addr, example)
  if type(addr) ~= 'string' then
    internal.argument_error(('%s takes an address, such as %s, not %s'):format(name, example, describe_value(addr)))
  end
end

local function check_limit(name, seconds)
  if seconds ~= nil and (type(seconds) ~= 'number' or not (seconds > 0)) then
    internal.argument_error(('%s takes seconds, a number above 0, not %s'):format(name, describe_value(seconds)))
  end
end

local function closed_error(what)
  return internal.make_error('RuntimeError', what .. ' is closed', 'EBADF')
end

-- -- Streams ---------------------------------------------------------------------------------------------------------

local Stream = internal.new_class 'stream'

function Stream:__tostring()
  return self.handle and self.label or self.label .. ' (closed)'
end

local function receive(self)
  if not self.handle then error(closed_error(self.label), 0) end
  return core.net_read(self.handle)
end

local function new_stream(handle, limit, accepted)
  return setmetatable({
    handle = handle, guard = internal.closer(core.net_close, handle), label = core.net_label(handle), limit = limit,
    accepted = accepted, secure = false, next_chunk = receive, rest = nil, at = 1, local_text = nil, peer_text = nil,
  }, Stream)
end

--- Runs `fn(self, ...)` within the stream's limit of time, if it has one.
local function limited(self, fn, ...)
  if self.limit then return core.with_deadline(self.limit, fn, self, ...) end
  return fn(self, ...)
end

local function read(self, count)
  return internal.read(self, self.label, count)
end

--- The next bytes, as they come; with `count` so many, or fewer at the end; with `'*a'` all. Nil at the end. After a
--- TimeoutError everything is still there.
function Stream:read(count)
  if count ~= nil then internal.check_count(count) end
  if internal.must_read(self, count) then return limited(self, read, count) end
  return read(self, count)
end

local function line(self, max)
  return internal.next_line(self, self.label, max, true)
end

--- The next line, without "\n" or "\r\n"; nil at the end. A line of more than `max` bytes (1 MiB) is an error.
function Stream:line(max)
  if max == nil then
    max = LINE_MAX
  elseif type(max) ~= 'number' or not (max >= 1) then
    internal.argument_error('line takes a number of bytes, at least 1, not ' .. describe_value(max))
  end
  local rest, at = self.rest, self.at
  if rest then
    local stop = find(rest, '\n', at, true)
    if stop and stop - at <= max then
      self.at = stop + 1
      if byte(rest, stop - 1) == RETURN and stop > at then return sub(rest, at, stop - 2) end
      return sub(rest, at, stop - 1)
    end
  end
  return limited(self, line, max)
end

--- Iterates over the lines.
function Stream:lines(max)
  return function() return self:line(max) end
end

--- Iterates over the bytes as they come.
function Stream:chunks()
  return function() return self:read() end
end

local function write(self, ...)
  return core.net_write(self.handle, ...)
end

--- Writes the texts as one: waits until the kernel has taken them.
function Stream:write(...)
  local count = select('#', ...)
  if count == 0 then internal.check_string('write', nil) end
  for i = 1, count do
    local kind = type((select(i, ...)))
    if kind ~= 'string' and kind ~= 'number' then internal.check_string('write', (select(i, ...))) end
  end
  if not self.handle then error(closed_error(self.label), 0) end
  return limited(self, write, ...)
end

local function shutdown(self)
  return core.net_shutdown(self.handle)
end

--- Ends this side's direction: the peer reads the end, and this side can still read.
function Stream:shutdown()
  if not self.handle then error(closed_error(self.label), 0) end
  return limited(self, shutdown)
end

--- Closes the stream. Fibers that read from it or write to it get an error. A second close does no harm.
function Stream:close()
  local handle = self.handle
  if not handle then return end
  -- Until the peer of a TLS connection knows of its end, the stream still has its number.
  if self.secure and core.may_suspend() then pcall(core.net_goodbye, handle) end
  if self.handle ~= handle then return end
  self.handle, self.rest, self.at = nil, nil, 1
  if self.scope then internal.disown(self) end
  core.net_close(handle)
end

local function addresses(self)
  if self.handle and not self.has_addresses then
    self.local_text, self.peer_text = core.net_addresses(self.handle)
    self.has_addresses = true
  end
end

--- The address of this end; nil if it has none, like a client's end of a Unix socket.
function Stream:addr()
  addresses(self)
  return self.local_text
end

--- The address of the peer; nil if it has none.
function Stream:peer_addr()
  addresses(self)
  return self.peer_text
end

--- The name in the peer's TLS certificate, which this side has verified; nil if it showed none.
function Stream:peer_name()
  if not self.handle then error(closed_error(self.label), 0) end
  return core.net_peer_name(self.handle)
end

--- Sets the seconds that each operation may take; nil for no limit.
function Stream:set_timeout(seconds)
  check_limit('set_timeout', seconds)
  self.limit = seconds
end

--- Makes this a TLS connection from now on: as the client, or of a stream that a listener accepted, as the server.
function Stream:starttls(options)
  local known = START_TLS_OPTIONS[self.accepted and 2 or 1]
  options = check_options('starttls', options, known)
  if not self.handle then error(closed_error(self.label), 0) end
  if self.rest and self.at <= #self.rest then
    -- They were not encrypted, so anybody may have put them there (CVE-2011-0411).
    error(internal.make_error('RuntimeError', self.label
      .. ' has bytes that were received before TLS and not read yet; read the whole answer first, or close it: '
      .. 'an attacker may have inserted them', 'EPROTO'), 0)
  end
  local host = options.server_name or self.host
  if not self.accepted and not host then
    if not options.insecure then
      internal.argument_error('starttls: the option server_name is missing: the name in the certificate of the peer')
    end
    host = 'localhost'
  end
  local limit = options.timeout or self.limit or CONNECT_TIMEOUT
  core.with_deadline(limit, core.net_start_tls, self.handle, options, self.accepted or false, host or 'localhost')
  self.secure = true
end

--- Connects to `tcp://host:port`, `tls://host:port` or `unix://path`.
function net.connect(addr, options)
  check_address('yue.net.connect', addr, 'tcp://localhost:8080')
  options = check_options('yue.net.connect', options, CONNECT_OPTIONS)
  local timeout = options.timeout
  local handle = core.net_connect(addr, options, timeout or CONNECT_TIMEOUT, options.nodelay ~= false)
  local stream = new_stream(handle, timeout)
  stream.secure = sub(addr, 1, 4) == 'tls:'
  stream.host = match(addr, '^t[cl][ps]://%[?([^%]]*)%]?:%d+$')
  internal.adopt_current(stream)
  return stream
end

-- -- Listeners -------------------------------------------------------------------------------------------------------

local Listener = internal.new_class 'listener'

function Listener:__tostring()
  return ('listener at %s%s'):format(self.address, self.closed and ' (closed)' or '')
end

--- Logs an error, unless its fiber was ended on purpose. Strangers can cause these entries at will.
local function log_failure(level, what, e, peer)
  local kind = internal.is_error(e) and e.type
  if internal.is_exit(e) or kind == 'CancelledError' then return end
  if kind == 'ConnectionLostError' then level = 'debug' end
  internal.log_failure(level, what, e, { peer = peer }, core.log_limited)
end

--- Ends the wait for room.
local function wake_listener(listener)
  local wait = listener.wait
  listener.wait = nil
  if wait then core.wake(wait) end
end

-- The function comes first: reports find it there after a tail call has removed its own frame.
local function serve(handler, listener, stream)
  local ok, e = true, nil
  local peer = match(stream.label, 'from (%S+)')
  if stream.secure then
    ok, e = pcall(core.net_handshake, stream.handle)
    if not ok then log_failure('warn', 'a handshake failed', e, peer) end
  end
  if ok then
    ok, e = xpcall(handler, internal.wrap, stream)
    if not ok then log_failure('error', 'the handler of ' .. stream.label .. ' failed', e, peer) end
  end
  stream:close()
  listener.count = listener.count - 1
  wake_listener(listener)
end

local function accept_stream(listener)
  local handle = core.net_accept(listener.handle)
  if not handle then return nil end
  local stream = new_stream(handle, listener.limit, true)
  stream.secure = listener.secure
  return stream
end

-- Clients above the number wait in the kernel's backlog.
local function await_room(listener)
  while listener.count >= listener.connections_max and not listener.closed do
    listener.wait = core.prepare()
    internal.park(listener.wait, 'connection', nil, listener)
  end
end

local function run_listener(listener, handler)
  while true do
    await_room(listener)
    if listener.closed then break end
    local ok, stream = pcall(accept_stream, listener)
    if ok and not stream then break end
    if ok then
      listener.count = listener.count + 1
      ok, stream = pcall(internal.start_in, listener.scope, serve, handler, listener, stream)
      if not ok then listener.count = listener.count - 1 end
    end
    if not ok then
      -- No memory for another fiber, for example; after a cancel the pause raises, too.
      log_failure('error', tostring(listener) .. ' lost a client', stream)
      core.sleep(0.05)
    end
  end
end

--- Listens at `tcp://host:port`, `tls://host:port` or `unix://path`. `handler(stream)` runs in a fiber of its own for
--- each client; without it the program calls `accept`.
function net.listen(addr, options, handler)
  check_address('yue.net.listen', addr, 'tcp://127.0.0.1:8080')
  if handler == nil and internal.is_callable(options) then options, handler = nil, options end
  if handler ~= nil and not internal.is_callable(handler) then
    internal.argument_error('yue.net.listen takes an address, options, and a function(stream), not '
      .. describe_value(handler))
  end
  options = check_options('yue.net.listen', options, LISTEN_OPTIONS)
  if options.connections_max and not handler then
    internal.argument_error('yue.net.listen: connections_max is for a listener with a function(stream)')
  end
  local timeout = options.timeout
  local handle, address = core.net_listen(addr, options, timeout or CONNECT_TIMEOUT, options.nodelay ~= false)
  local listener = setmetatable({
    handle = handle, guard = internal.closer(core.net_unlisten, handle), address = address, limit = timeout,
    secure = sub(addr, 1, 4) == 'tls:', closed = false, count = 0, handler = handler or false,
    connections_max = options.connections_max or CONNECTIONS_MAX,
  }, Listener)
  internal.adopt_current(listener)
  if handler then
    listener.fiber = yue.fiber(run_listener, 'listener at ' .. address)
    listener.fiber.quiet, listener.fiber.own = true, 'waits'
    listener.fiber:run(listener, handler)
  end
  return listener
end

--- The address, with the port that the system chose for port 0.
function Listener:addr()
  return self.address
end

--- The number of connections whose function runs.
function Listener:connections()
  return self.count
end

--- Waits for the next client: returns its stream, or nil when the listener is closed.
function Listener:accept(timeout)
  check_limit('accept', timeout)
  if self.handler then
    local text = tostring(self) .. ' passes its clients to its function: accept would take them'
    error(yue.errors.RuntimeError.new(text), 0)
  end
  if self.closed then return nil end
  if timeout then return core.with_deadline(timeout, accept_stream, self) end
  return accept_stream(self)
end

--- `for stream in listener do`
function Listener:__call()
  return self:accept()
end

--- Stops listening. Connections that were accepted stay open.
function Listener:close()
  if self.closed then return end
  self.closed = true
  if self.scope then internal.disown(self) end
  core.net_unlisten(self.handle)
  wake_listener(self)
end

-- -- Datagrams -------------------------------------------------------------------------------------------------------

local Datagrams = internal.new_class 'datagrams'

function Datagrams:__tostring()
  return ('UDP socket at %s%s'):format(self.address, self.handle and '' or ' (closed)')
end

--- A UDP socket at the address, `udp://host:port`; by default at a free port for IPv4.
function net.udp(addr, options)
  if type(addr) == 'table' and options == nil then addr, options = nil, addr end
  if addr == nil then addr = 'udp://0.0.0.0:0' end
  check_address('yue.net.udp', addr, 'udp://127.0.0.1:9000')
  options = check_options('yue.net.udp', options, UDP_OPTIONS)
  local handle, address = core.udp_open(addr, options.broadcast or false)
  local socket = setmetatable({
    handle = handle, guard = internal.closer(core.udp_close, handle), address = address, limit = options.timeout,
  }, Datagrams)
  internal.adopt_current(socket)
  return socket
end

local function open_handle(self)
  return self.handle or error(closed_error(tostring(self)), 0)
end

--- Sends a datagram of up to 65507 bytes to an address, or without one to the address that `connect` got.
function Datagrams:send(text, addr)
  if type(text) ~= 'string' then internal.check_string('send', text) end
  if addr ~= nil then check_address('send', addr, 'udp://127.0.0.1:9000') end
  core.udp_send(open_handle(self), text, addr)
end

--- Waits for the next datagram: returns its text and the address of its sender. Raises a TimeoutError after `seconds`.
function Datagrams:receive(seconds)
  check_limit('receive', seconds)
  local limit = seconds or self.limit
  if limit then return core.with_deadline(limit, core.udp_receive, open_handle(self)) end
  return core.udp_receive(open_handle(self))
end

--- Sets the peer: `send` needs no address, and datagrams of others are dropped.
function Datagrams:connect(addr)
  check_address('connect', addr, 'udp://127.0.0.1:9000')
  core.udp_connect(open_handle(self), addr)
end

--- The address, with the port that the system chose for port 0.
function Datagrams:addr()
  return self.address
end

--- Closes the socket. Fibers that wait for a datagram get an error.
function Datagrams:close()
  local handle = self.handle
  if not handle then return end
  self.handle = nil
  if self.scope then internal.disown(self) end
  core.udp_close(handle)
end

-- -- Names -----------------------------------------------------------------------------------------------------------

--- The addresses of a host: a list of texts, the preferred one first.
function net.resolve(name)
  if type(name) ~= 'string' or name == '' then
    internal.argument_error('yue.net.resolve takes the name of a host, not ' .. describe_value(name))
  end
  return core.net_resolve(name)
end

yue.net = net
