-- yue_client: calls yue servers from LÖVE, Defold and any Lua 5.1 or LuaJIT with LuaSocket, and serves them.
--
-- Nothing here waits. `client:update()`, once a frame, reads, runs what is due, and writes. A call has a callback, or
-- is made in a coroutine that `client:run` started and that waits for the answer.
--
--   idle ─call─► connecting ─► greeting ─grant─► accepting ─► up
--    ▲               ▲ └ hello, $yue/granted       └ `accept`  │
--    └── give up ────┴──────────── the link ends ◄─────────────┘          closed: by this side, for good
--
-- Calls are held in every state but `up`, each until its own deadline.
local values = require 'yue_client.values'
local links = require 'yue_client.link'
local serving = require 'yue_client.serving'
local socket = rawget(_G, 'socket') or require 'socket' -- Defold has it as a global.

local M = { _VERSION = '0.1.0' }
local Client = {}
local errors, raise, remotes, procedures = values.errors, values.raise, values.remotes, values.procedures
local encode_list, plain, big_endian = values.encode_list, values.plain, values.big_endian
local put, queued, stale = links.put, links.queued, links.stale
local respond, respond_error = links.respond, links.respond_error
local unpack, floor, concat = unpack or table.unpack, math.floor, table.concat

local READ_BYTES, READS_PER_UPDATE = 65536, 32
local RETRY_FIRST, RETRY_MAX = 0.05, 5
local ANSWERS_MAX = 8 -- How often `output_max` may be exceeded by answers.
local NONSENSE_LINKS = 3 -- After as many links that sent nothing but nonsense, the calls that wait fail.

local DEFAULTS = {
  timeout = 5,              -- seconds that a call waits
  handshake_timeout = 30,   -- seconds for the link, and for greeting and grant
  keepalive = 50,           -- seconds after which a silent yue peer is lost; false: when the system notices
  retry = false,            -- keep trying if the first attempt is refused
  reconnect = true,         -- make a lost link again
  legacy = false,           -- plain msgpack-rpc, without yue's greeting
  describe = true,          -- whether the server may list the functions of this side
  traceback = false,        -- whether tracebacks are sent to the server
  message_max = 4 * 1024 * 1024, -- bytes of a message
  held_max = 8 * 1024 * 1024,    -- bytes of calls that wait for the connection
  in_flight_max = 16384,         -- calls that wait for answers; and, separately, functions that run
  references_max = 1048576,      -- functions of this side that the server holds
  output_high = 1024 * 1024,     -- bytes that wait to be sent, above which calls wait
  output_max = 8 * 1024 * 1024,  -- the same, above which notifications return false
}
local FUNCTIONS = { accept = true, close = true, log = true, clock = true }

-- Addresses -----------------------------------------------------------------------------------------------------------

local function parse_address(text)
  local path = type(text) == 'string' and text:match '^unix://(/.+)$'
  if path then return { path = path } end
  local host, port = tostring(text):match '^tcp://%[?([^%[%]]-)%]?:(%d+)$'
  port = tonumber(port)
  if not host or host == '' or port < 1 or port > 65535 then
    raise('AddressError', ('%q is not an address; write tcp://host:port or unix:///path'):format(tostring(text)))
  end
  return { host = host, port = port }
end

-- One address of a host. It waits for the name server, as nothing else here does.
local function resolve(host)
  local found = not host:find '^[%d.]+$' and not host:find ':' and socket.dns.getaddrinfo(host)
  for _, each in ipairs(found or {}) do if each.family == 'inet' then return each.addr end end
  return found and found[1] and found[1].addr or host
end

local function new_socket(address)
  if not address.path then return socket.tcp() end
  local ok, unix = pcall(require, 'socket.unix')
  if not ok then raise('AddressError', 'unix:// needs LuaSocket with socket.unix') end
  return type(unix) == 'table' and unix.stream() or unix()
end

-- Procedures ----------------------------------------------------------------------------------------------------------

-- The prefixes of a name, and the method without them. `=name` is literal.
local function split(name)
  local path, last = name:match '^(.*%.)([^.]+)$'
  path, last = path or '', last or name
  local prefixes = {}
  if last:sub(1, 1) == '=' then return prefixes, path .. last:sub(2) end
  while true do
    local prefix, rest = last:match '^(%l+)_(.+)$'
    if prefix ~= 'timed' and prefix ~= 'notify' or prefixes[prefix] then return prefixes, path .. last end
    prefixes[prefix], last = true, rest
  end
end

local Procedures = {}

function Procedures.__index(proxy, name)
  local at = procedures[proxy]
  return M.procedure(at.client, at.path and at.path .. '.' .. tostring(name) or tostring(name))
end

function Procedures.__call(proxy, ...)
  local at = procedures[proxy]
  if not at.path then raise('ArgumentError', 'name a procedure to call: client.procs.name(…)') end
  if procedures[(...)] then raise('ArgumentError', 'call a procedure with a dot, not with a colon') end
  return at.client:invoke(at.path, ...)
end

function Procedures.__tostring(proxy) return 'procedure ' .. (procedures[proxy].path or '…') end

function M.procedure(client, path)
  local proxy = setmetatable({}, Procedures)
  procedures[proxy] = { client = client, path = path }
  return proxy
end

-- Client --------------------------------------------------------------------------------------------------------------

Client.__index = Client
function Client:__tostring() return ('connection to %s: %s'):format(self.address, self.state) end

-- A random number from 0 to 1. The program's own random numbers are left alone.
function Client:random()
  self.seed = (self.seed * 16807) % 2147483647
  return self.seed / 2147483647
end

-- Opens a connection to the server at an address. It returns at once; the first call connects, in `update`.
function M.open(address, options)
  local parsed, o = parse_address(address), {}
  for name, value in pairs(options or {}) do
    local kind = type(DEFAULTS[name])
    local is_fine = type(value) == kind or name == 'keepalive' and value == false or
      FUNCTIONS[name] and type(value) == 'function' or name == 'symbols' and type(value) == 'table'
    if not is_fine or kind == 'number' and value and value <= 0 then
      raise('ArgumentError', ('the option %s does not take %s'):format(tostring(name), tostring(value)))
    end
    o[name] = value
  end
  for name, value in pairs(DEFAULTS) do if o[name] == nil then o[name] = value end end
  o.log = o.log or function(text) io.stderr:write('yue_client: ', text, '\n') end
  local love = rawget(_G, 'love')
  local client = setmetatable({
    address = address, parsed = parsed, options = o, namespace = o.symbols or {},
    clock = o.clock or love and love.timer and love.timer.getTime or socket.gettime,
    state = 'idle', attempts = 0, nonsense = 0, was_up = false, due = 0,
    held = {}, held_bytes = 0, deferred = {}, timers = {},
  }, Client)
  local place = tonumber((tostring(client.held):match '0x(%x+)'), 16) or 0
  client.seed = (place + floor(socket.gettime() * 1e6)) % 2147483646 + 1
  client.procs = M.procedure(client)
  return client
end

-- The connection through which the running function was called; outside of one, nil.
function M.peer()
  local fiber = serving.current()
  return fiber and fiber.peer or nil
end

function Client:connected() return self.state == 'up' end
function Client:functions_held() return self.link and self.link.exported or 0 end

-- Runs `fn(...)` in the next update.
function Client:defer(fn, ...) self.deferred[#self.deferred + 1] = { fn, select('#', ...), ... } end

-- Runs `fn(...)` after so many seconds, in an update; returns what `self.timers[timer] = nil` cancels.
function Client:after(seconds, fn, ...)
  local timer = { at = self.clock() + seconds, fn = fn, n = select('#', ...), ... }
  self.timers[timer] = true
  self.due = math.min(self.due, timer.at)
  return timer
end

-- Runs `fn(...)` in a coroutine, where calls of `client.procs` wait for their answers.
function Client:run(fn, ...)
  serving.start(self, fn, function(ok, e)
    if not ok then self.options.log('a coroutine failed: ' .. tostring(e)) end
  end, ...)
end

-- Waits in a coroutine.
function Client:wait(seconds)
  if not serving.current() then raise('CallError', 'wait works in a coroutine of client:run only') end
  self:after(seconds, serving.step, serving.current(), true)
  return serving.wait()
end

-- Calls --

-- Calls `method` (a dotted name, or a function of the peer). The last argument is the callback: `callback(ok, …)`.
-- Returns the call, for `client:cancel(call)`.
function Client:call(method, ...)
  local n = select('#', ...)
  local callback = n > 0 and select(n, ...)
  if type(callback) ~= 'function' then raise('ArgumentError', 'the last argument of call is a callback') end
  local args = { ... }
  return self:start_call(method, function(...)
    local ok, e = pcall(callback, ...)
    if not ok then self.options.log('a callback failed: ' .. tostring(e)) end
  end, unpack(args, 1, n - 1))
end

-- Notifies a method. Returns whether the message was queued.
function Client:notify(method, ...)
  local prefixes, name = {}, method
  if not remotes[method] then prefixes, name = split(method) end
  return self:send_notification(prefixes, name, ...)
end

-- What a call of a proxy does.
function Client:invoke(method, ...)
  local prefixes = not remotes[method] and split(method) or {}
  if prefixes.notify then return self:notify(method, ...) end
  if not serving.current() then
    raise('CallError', 'a call waits in a coroutine of client:run only; elsewhere, use client:call')
  end
  local fiber = serving.current()
  self:start_call(method, function(...) return serving.step(fiber, ...) end, ...)
  return serving.wait()
end

function Client:start_call(method, done, ...)
  local call, seconds = { done = done }, self.options.timeout
  if remotes[method] then
    local record = remotes[method]
    if record.link.ended then self:defer(done, false, stale()) return call end
    call.only, call.method = record.link, '\207\0' .. record.raw
    self:encode_call(call, ...)
  else
    local prefixes, name = split(method)
    call.method = plain(name)
    if prefixes.timed then
      seconds = ...
      if type(seconds) ~= 'number' then raise('ArgumentError', 'timed_ takes seconds as its first argument') end
      self:encode_call(call, select(2, ...))
    else
      self:encode_call(call, ...)
    end
  end
  if self.state == 'closed' then
    self:defer(done, false, errors.ConnectionLostError.new 'the connection was closed by this side')
    return call
  end
  call.deadline = self.clock() + seconds
  call.timer = self:after(seconds, self.time_out, self, call, seconds)
  if call.only then self:write(call.only, call)
  elseif self.state == 'up' and #self.held == 0 and queued(self.link) < self.options.output_high then
    self:write(self.link, call)
  else
    self:hold(call)
  end
  return call
end

function Client:encode_call(call, ...)
  call.pieces, call.bytes = encode_list('args', select('#', ...), ...)
  if call.bytes > self.options.message_max then
    raise('MessageTooLargeError', 'the arguments have ' .. call.bytes .. ' bytes')
  end
end

function Client:send_notification(prefixes, name, ...)
  local record, call = remotes[name], {}
  call.method = record and '\207\0' .. record.raw or plain(name)
  if prefixes.timed then self:encode_call(call, select(2, ...)) else self:encode_call(call, ...) end
  local link = record and record.link or self.state == 'up' and #self.held == 0 and self.link
  if link then
    if link.ended or queued(link) >= self.options.output_max then return false end
    put(link, '\147\2' .. call.method .. links.with_references(link, call.pieces))
    return true
  end
  if self.state == 'closed' or self.held_bytes + call.bytes > self.options.held_max then return false end
  if prefixes.timed then call.timer = self:after((...), self.cancel, self, call) end
  self:hold(call)
  return true
end

function Client:finish(call, ...)
  if call.finished then return end
  call.finished = true
  if call.timer then self.timers[call.timer] = nil end
  if call.done then self:defer(call.done, ...) end
end

-- Nobody waits for the answer of a call any more. Its callback is not called.
function Client:cancel(call)
  if call.finished then return end
  call.finished = true
  if call.timer then self.timers[call.timer] = nil end
  if call.link and not call.link.ended then
    call.link.calls[call.msgid], call.link.calls_count = nil, call.link.calls_count - 1
    if call.link.is_yue then links.notify_control(call.link, '$yue/cancel', call.msgid) end
  end
  for i, other in ipairs(self.held) do
    if other == call then
      table.remove(self.held, i)
      self.held_bytes = self.held_bytes - call.bytes
      break
    end
  end
end

function Client:time_out(call, seconds)
  local was_held = not call.link
  self:cancel(call)
  local text = ('no answer within %g s%s'):format(seconds, was_held and ': it was never sent' or '')
  if call.done then call.done(false, errors.TimeoutError.new(text, nil, was_held)) end
end

function Client:write(link, call)
  local ok, params = pcall(links.with_references, link, call.pieces)
  if not ok then return self:finish(call, false, params) end
  if not call.done then
    call.finished = true
    if call.timer then self.timers[call.timer] = nil end
    return put(link, '\147\2' .. call.method .. params)
  end
  if link.calls_count >= self.options.in_flight_max then
    local text = self.options.in_flight_max .. ' calls wait already, the limit'
    return self:finish(call, false, errors.MessageRefusedError.new(text))
  end
  self:request(link, call, params, call.deadline)
end

function Client:request(link, call, params, deadline)
  while link.calls[link.next_id] do link.next_id = (link.next_id + 1) % 2 ^ 32 end
  call.link, call.msgid, link.next_id = link, link.next_id, (link.next_id + 1) % 2 ^ 32
  link.calls[call.msgid], link.calls_count = call, link.calls_count + 1
  local extended = link.is_yue and deadline and deadline < math.huge
  local remaining = extended and plain { t = math.max(0, floor((deadline - self.clock()) * 1000)) } or ''
  local head = (extended and '\149' or '\148') .. '\0\206' .. big_endian(call.msgid, 4)
  put(link, head .. call.method .. params .. remaining)
end

-- Calls that are held --

function Client:holds_remotes()
  for _, call in ipairs(self.held) do if links.names_remotes(call.pieces) then return true end end
  return false
end

function Client:hold(call)
  if #self.held > 0 and self.held_bytes + call.bytes > self.options.held_max then
    local text = 'more than ' .. self.options.held_max .. ' bytes of calls wait for the connection already'
    return self:finish(call, false, errors.QueueFullError.new(text, nil, true))
  end
  for _, piece in ipairs(call.pieces) do
    local record = type(piece) == 'table' and remotes[piece[1]]
    if record and record.link ~= self.link then return self:finish(call, false, stale()) end
  end
  self.held[#self.held + 1] = call
  self.held_bytes = self.held_bytes + call.bytes
  if self.state == 'idle' then self.state, self.retry_at = 'connecting', 0 end
end

function Client:write_held()
  while self.state == 'up' and #self.held > 0 and queued(self.link) < self.options.output_high do
    local call = table.remove(self.held, 1)
    self.held_bytes = self.held_bytes - call.bytes
    self:write(self.link, call)
  end
end

function Client:fail_held(name, text, retryable)
  local held = self.held
  self.held, self.held_bytes = {}, 0
  for _, call in ipairs(held) do self:finish(call, false, errors[name].new(text, nil, retryable)) end
end

-- Links --

function Client:connect()
  if self.clock() < self.retry_at then return end
  if not self.connecting then
    self.attempts = self.attempts + 1
    local handle, e = new_socket(self.parsed)
    self.host = not self.parsed.path and resolve(self.parsed.host)
    if not handle then return self:connect_failed(e) end
    handle:settimeout(0)
    self.connecting, self.connect_until = handle, self.clock() + self.options.handshake_timeout
  elseif #select(2, socket.select(nil, { self.connecting }, 0)) == 0 then
    if self.clock() >= self.connect_until then self:connect_failed 'nobody answered in time' end
    return
  end
  local handle, at = self.connecting, self.parsed
  local ok, e
  if at.path then ok, e = handle:connect(at.path) else ok, e = handle:connect(self.host, at.port) end
  if ok or e == 'already connected' then
    self.connecting = nil
    if not at.path then
      handle:setoption('tcp-nodelay', true)
      handle:setoption('keepalive', true)
    end
    return self:greet(handle)
  end
  local pending = e == 'timeout' or e == 'Operation already in progress' or e == 'Operation now in progress'
  if not pending then self:connect_failed(e) end
end

function Client:connect_failed(e)
  if self.connecting then self.connecting:close() end
  self.connecting = nil
  if self.was_up or self.options.retry then
    self.retry_at = self.clock() + self:backoff()
    return
  end
  self.state, self.attempts = 'idle', 0
  local refused = e == 'connection refused' or tostring(e):find 'No such file'
  local name = refused and 'ConnectionRefusedError' or e == 'nobody answered in time' and 'ConnectionTimeoutError'
  self:fail_held(name or 'TransportError', ('cannot connect to %s: %s'):format(self.address, tostring(e)), true)
end

-- The pause before the next attempt: it doubles, and a random part spreads the clients of a lost server.
function Client:backoff()
  local longest = math.min(RETRY_FIRST * 2 ^ math.min(self.attempts - 1, 16), RETRY_MAX)
  return longest * (0.5 + self:random() / 2)
end

function Client:greet(handle)
  local link = links.new(self, handle)
  link.heard_at = self.clock()
  self.link, self.state = link, 'greeting'
  local seconds = self.options.handshake_timeout
  self.handshake_timer = self:after(seconds, self.end_link, self, link, 'the handshake took too long')
  if self.options.legacy then return self:handle_granted(nil) end
  local hello = { method = plain '$yue/hello' }
  hello.immediate = function(ok)
    if ok then link.is_yue = true
    elseif not link.ended then self:handle_granted(nil) end -- The peer knows no hello, so it knows no grant either.
  end
  -- The number identifies the link for tools at both ends.
  local id = big_endian(1 + floor(self:random() * 2 ^ 23), 3) .. big_endian(floor(self:random() * 2 ^ 24), 3)
  self:request(link, hello, '\146\1\129\162id\207\0\0' .. id)
end

function Client:handle_granted(value)
  if self.state ~= 'greeting' then return end
  self.state = 'accepting'
  local link = self.link
  if not self.options.accept then return self:go_up() end
  -- In a later step, like everything of the program: it may call, and wait.
  self:defer(serving.start, self, self.options.accept, function(ok, verdict)
    if not ok then self.options.log('accept failed: ' .. tostring(verdict)) end
    if self.link ~= link or self.state ~= 'accepting' then return end
    if ok and verdict ~= false then return self:go_up() end
    self:end_link(link, ok and 'accept returned false' or 'accept failed: ' .. tostring(verdict), 'refusal')
  end, self, value)
end

function Client:go_up()
  self.state, self.was_up, self.attempts, self.nonsense = 'up', true, 0, 0
  self.timers[self.handshake_timer] = nil
  if self.options.keepalive and self.link.is_yue and not self.parsed.path then self:keep_alive(self.link) end
  self:write_held()
end

-- Asks a silent peer for a sign of life. Silence counts from the question: this process may have been stopped itself.
function Client:keep_alive(link)
  if link.ended then return end
  local now, seconds = self.clock(), self.options.keepalive
  if link.pinged_at and link.heard_at >= link.pinged_at then link.pinged_at = nil end
  if not link.pinged_at and now - link.heard_at >= seconds / 5 then
    link.pinged_at = now
    self:request(link, { method = plain '$yue/ping', immediate = function() end }, '\144')
  elseif link.pinged_at and now - link.pinged_at >= seconds * 3 / 5 then
    return self:end_link(link, ('the peer was silent for %g s'):format(floor(now - link.heard_at)))
  end
  self:after(seconds / 10, self.keep_alive, self, link)
end

-- Ends a link, once. `kind` is 'refusal', 'nonsense', or nil.
function Client:end_link(link, reason, kind)
  if link.ended then return end
  link.ended = true
  link.socket:close()
  local was_up = self.state == 'up'
  for _, call in pairs(link.calls) do
    local e = errors.ConnectionLostError.new('the connection was lost before the answer came: ' .. reason)
    if call.immediate then call.immediate(false, e) else self:finish(call, false, e) end
  end
  link.calls, link.exports, link.export_ids, link.exported, link.dropped = {}, {}, {}, 0, {}
  self.timers[self.handshake_timer] = nil
  if self.state == 'closed' or self.link ~= link then return end
  self.link, self.state = nil, 'ending'
  self.nonsense = kind == 'nonsense' and not was_up and self.nonsense + 1 or 0
  local again = self.options.reconnect and kind ~= 'refusal'
  if self.options.close then
    local ok, verdict = pcall(self.options.close, self, reason)
    if not ok then self.options.log('close failed: ' .. tostring(verdict)) end
    again = ok and verdict
  end
  if self.state ~= 'ending' then return end
  if self.nonsense >= NONSENSE_LINKS then again, self.nonsense = false, 0 end
  if again then
    self.attempts = math.max(self.attempts, 1)
    self.state, self.retry_at = 'connecting', self.clock() + self:backoff()
    return
  end
  self.state, self.attempts, self.was_up = 'idle', 0, false
  self:fail_held(kind == 'refusal' and 'NotGrantedError' or 'ConnectionLostError', reason, true)
end

-- Closes the connection for good. A yue peer gets the reason.
function Client:close(reason)
  if self.state == 'closed' then return end
  local link = self.link
  if link and self.state == 'up' and link.is_yue and reason then
    links.notify_control(link, '$yue/refused', values.error_to_wire(errors.RPCError.new(reason)))
  end
  if link then self:flush() end
  self.state = 'closed'
  if self.connecting then self.connecting:close() end
  if link then self:end_link(link, 'closed by this side') end
  self:fail_held('ConnectionLostError', 'the connection was closed by this side')
end

-- Messages --

function Client:handle_message(link, s)
  local cursor = { s = s, i = 1, j = #s, underflow = values.underflow }
  local count = values.array_count(cursor)
  if not count or count < 3 or count > 5 then error('it is not an array of 3 to 5', 0) end
  local kind = links.decode(link, cursor)
  local function id()
    local msgid = links.decode(link, cursor)
    local is_id = type(msgid) == 'number' and msgid >= 0 and msgid < 2 ^ 32 and msgid == floor(msgid)
    return is_id and msgid or error('its msgid is not one', 0)
  end
  if kind == 1 and count >= 4 then return self:handle_response(link, id(), cursor, count) end
  if kind ~= 0 and kind ~= 2 or kind == 0 and count < 4 then error('its type is unknown', 0) end
  local msgid = kind == 0 and id() or nil
  local method = links.decode(link, cursor)
  local n = values.array_count(cursor)
  if not n or type(method) ~= 'string' and type(method) ~= 'number' then error('it has no method, or no params', 0) end
  local params = {}
  for i = 1, n do params[i] = links.decode(link, cursor) end
  local extensions = count == 5 and links.decode(link, cursor)
  self:handle_request(link, msgid, method, extensions, n, params, #s)
end

function Client:handle_response(link, msgid, cursor, count)
  local e = links.decode(link, cursor)
  local count_of_results = 1
  if count == 5 then
    local at = cursor.i
    cursor.i = values.skip(cursor.s, at)
    count_of_results = links.decode(link, cursor)
    cursor.i = at
  end
  local n, results = 1, {}
  if count_of_results ~= 1 then n = values.array_count(cursor) or 1 end
  for i = 1, n do results[i] = links.decode(link, cursor) end
  local call = link.calls[msgid]
  if not call then return end -- Its caller gave up.
  link.calls[msgid], link.calls_count = nil, link.calls_count - 1
  if call.immediate then return call.immediate(e == nil, e) end
  if e ~= nil then return self:finish(call, false, values.error_from_wire(e)) end
  self:finish(call, true, unpack(results, 1, n))
end

function Client:handle_request(link, msgid, method, extensions, n, params, size)
  if type(method) == 'string' and method:sub(1, 5) == '$yue/' then
    if msgid then return self:answer_control(link, msgid, method) end
    return self:handle_control(link, method, params[1])
  end
  local fn, why, name
  if type(method) == 'number' then
    local export = link.exports[method]
    fn, name, why = export and export.fn, 'a function', 'the function was collected, or belonged to an earlier link'
  else
    fn, why = serving.find(self.namespace, method)
    name = ('%q'):format(method:sub(1, 80))
  end
  local e = not fn and errors.NoMethodError.new(why)
  if fn and link.running >= self.options.in_flight_max then
    e = errors.ServerBusyError.new(link.running .. ' functions run already, the limit', nil, true)
  end
  local remaining = link.is_yue and type(extensions) == 'table' and extensions.t
  if msgid and type(remaining) == 'number' and remaining <= 0 then
    e = errors.TimeoutError.new('its time had passed before it could start', nil, true)
  end
  -- Reading must continue, for the peer may read only when it could write.
  local limit = 2 * self.options.held_max
  if not e and link.waiting_bytes > 0 and link.waiting_bytes + size > limit then
    e = errors.ServerBusyError.new(limit .. ' bytes of calls wait already, the limit', nil, true)
  end
  if e then return msgid and respond_error(link, msgid, e) end
  local deadline = type(remaining) == 'number' and self.clock() + remaining / 1000 or nil
  local request = { msgid = msgid, name = name, fn = fn, n = n, params = params, deadline = deadline, size = size }
  link.running, link.waiting_bytes = link.running + 1, link.waiting_bytes + size
  link.waiting[#link.waiting + 1] = request
  self:defer(self.start_waiting, self, link, 1)
end

function Client:serve(link, request)
  link.waiting_bytes = link.waiting_bytes - request.size
  if request.msgid and request.deadline and request.deadline <= self.clock() then
    link.running = link.running - 1
    local text = 'its time had passed before it could start'
    return respond_error(link, request.msgid, errors.TimeoutError.new(text, nil, true))
  end
  serving.serve(link, request.msgid, request.name, request.fn, unpack(request.params, 1, request.n))
end

-- Starts so many requests that wait, in order. While much waits to be sent none starts: the answers would pile up.
function Client:start_waiting(link, count)
  while count > 0 and link.waiting[1] and not link.ended and queued(link) < self.options.output_high do
    count = count - 1
    self:serve(link, table.remove(link.waiting, 1))
  end
end

-- The peer's caller gave up: a request that has not started is dropped.
function Client:handle_cancel(link, msgid)
  for i, request in ipairs(link.waiting) do
    if request.msgid == msgid and msgid then
      table.remove(link.waiting, i)
      link.running, link.waiting_bytes = link.running - 1, link.waiting_bytes - request.size
      return respond_error(link, msgid, errors.CancelledError.new 'the caller gave up')
    end
  end
end

function Client:handle_control(link, method, value)
  local is_early = self.state == 'greeting' or self.state == 'accepting'
  if method == '$yue/granted' and link.is_yue then self:handle_granted(value)
  elseif method == '$yue/release' then links.handle_release(link, value)
  elseif method == '$yue/cancel' then self:handle_cancel(link, value)
  elseif method == '$yue/refused' and is_early then
    self:end_link(link, 'the server did not grant the connection: ' .. values.error_from_wire(value).msg, 'refusal')
  elseif method == '$yue/refused' and link.is_yue then
    self:end_link(link, 'closed by the peer: ' .. values.error_from_wire(value).msg)
  end
end

function Client:answer_control(link, msgid, method)
  if method == '$yue/ping' then respond(link, msgid, 1, nil)
  elseif method == '$yue/hello' then
    link.is_yue = true
    respond(link, msgid, 1, { 1, values.map {} })
  elseif method == '$yue/describe' and self.state == 'up' and self.options.describe then
    respond(link, msgid, 1, { functions = serving.describe(self.namespace, '', 0, {}) })
  else
    respond_error(link, msgid, errors.NoMethodError.new(('there is no method %q'):format(method:sub(1, 80))))
  end
end

-- The loop --

function Client:read(link)
  for _ = 1, READS_PER_UPDATE do
    local data, e, partial = link.socket:receive(READ_BYTES)
    data = data or partial
    if data and #data > 0 then
      link.heard_at = self.clock()
      link.input[#link.input + 1] = data
      link.input_bytes = link.input_bytes + #data
      if link.input_bytes >= link.wanted then
        local ok, fault = pcall(self.read_messages, self, link)
        if not ok then return self:end_nonsense(link, fault) end
        if link.ended then return end
      end
    end
    if e == 'timeout' then return end
    if e then return self:end_link(link, e == 'closed' and 'closed by the peer' or 'the link broke: ' .. e) end
  end
end

function Client:end_nonsense(link, fault)
  local received = concat(link.input):sub(1, 32):gsub('[^ -~]', function(c) return ('\\x%02x'):format(c:byte()) end)
  local text = ('the peer does not speak msgpack-rpc: %s: received "%s"'):format(tostring(fault), received)
  self:end_link(link, text, 'nonsense')
end

function Client:read_messages(link)
  local s, state = concat(link.input), link.scan
  while not link.ended do
    local stop, wanted = values.scan(state, s, self.options.message_max)
    if not stop then
      -- What was handled goes; the state counts from the first byte that stays.
      local shift = state.start - 1
      link.input, link.input_bytes, link.wanted = { s:sub(state.start) }, #s - shift, wanted - shift
      state.start, state.at = 1, state.at - shift
      return
    end
    local message = s:sub(state.start, stop - 1)
    state.start, state.at, state.left = stop, stop, { 1 }
    link.input = { message }
    self:handle_message(link, message)
  end
end

-- Writes what the link takes.
function Client:flush()
  local link = self.link
  if not link then return end
  links.send_releases(link)
  for _ = 1, 2 do
    if link.sent >= #link.sending then
      link.sending, link.sent, link.output, link.output_bytes = concat(link.output), 0, {}, 0
      if #link.sending == 0 then return end
    end
    local last, e, partial = link.socket:send(link.sending, link.sent + 1)
    link.sent = last or partial
    if not last then
      if e ~= 'timeout' then return self:end_link(link, 'the link broke: ' .. e) end
      local o = self.options
      -- No call is written and no request starts above `output_high`: these are answers of requests that ran before.
      local is_stalled = queued(link) > 2 * o.message_max + ANSWERS_MAX * o.output_max
      return is_stalled and self:end_link(link, 'the peer reads nothing')
    end
  end
end

function Client:run_timers()
  local now, due = self.clock(), {}
  if now < self.due then return end
  self.due = math.huge
  for timer in pairs(self.timers) do
    if timer.at <= now then due[#due + 1] = timer else self.due = math.min(self.due, timer.at) end
  end
  table.sort(due, function(a, b) return a.at < b.at end)
  for _, timer in ipairs(due) do
    if self.timers[timer] then
      self.timers[timer] = nil
      timer.fn(unpack(timer, 1, timer.n))
    end
  end
end

-- Reads, runs what is due, and writes. Call it once a frame.
function Client:update()
  if self.state == 'connecting' then self:connect() end
  if self.link then self:read(self.link) end
  self:run_timers()
  if self.link then self:start_waiting(self.link, math.huge) end
  local deferred = self.deferred
  self.deferred = {}
  for _, each in ipairs(deferred) do each[1](unpack(each, 3, each[2] + 2)) end
  self:write_held()
  self:flush()
end

M.errors, M.null, M.array, M.map = errors, values.null, values.array, values.map

return M
