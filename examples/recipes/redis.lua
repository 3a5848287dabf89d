-- A Redis client. Commands of many fibers share one connection and travel together (pipelining).
--
--   local redis = require 'redis'
--   local db = redis.connect 'tcp://127.0.0.1:6379'
--   db:set('name', 'frodo')
--   print(db:get 'name')
--   for message, channel in redis.subscribe('tcp://127.0.0.1:6379', 'news') do print(channel, message) end
--
-- The protocol is RESP2 (https://redis.io/docs/latest/develop/reference/protocol-spec/).
local yue = require 'yue'

local redis = {}

local function encode(...)
  local count = select('#', ...)
  local parts = { ('*%d\r\n'):format(count) }
  for i = 1, count do
    local text = tostring((select(i, ...)))
    parts[i + 1] = ('$%d\r\n%s\r\n'):format(#text, text)
  end
  return table.concat(parts)
end

local function lost()
  error(yue.errors.ConnectionLostError.new 'Redis closed the connection', 0)
end

--- Reads one reply: `true, value` or `false, error`. A null is nil, and in a list `yue.null`: nil would be a hole.
local function read_reply(stream)
  local line = stream:line() or lost()
  local kind, rest = line:sub(1, 1), line:sub(2)
  if kind == '+' then return true, rest end
  if kind == '-' then return false, yue.errors.RuntimeError.new('Redis: ' .. rest) end
  local number = tonumber(rest) or error(yue.errors.RuntimeError.new('this is not Redis: ' .. line), 0)
  if kind == ':' then return true, number end
  if number < 0 then return true, nil end
  if kind == '$' then
    local text = stream:read(number + 2)
    if not text or #text < number + 2 then lost() end
    return true, text:sub(1, number)
  end
  local list = {}
  for i = 1, number do
    local _, value = read_reply(stream)
    list[i] = value == nil and yue.null or value
  end
  return true, list
end

-- Every name is a command: `db:hset('key', 'field', 5)` sends HSET.
local Client = {}
Client.__index = function(_, name)
  return Client[name] or function(self, ...) return self:call(name, ...) end
end

local function open(addr, options)
  local stream = yue.net.connect(addr, options.net)
  if options.password then
    stream:write(encode('AUTH', options.user or 'default', options.password))
    local ok, e = read_reply(stream)
    if not ok then error(e, 0) end
  end
  return stream
end

--- Connects. `options`: `user`, `password`, and `net`, the options of `yue.net.connect`.
function redis.connect(addr, options)
  options = options or {}
  local stream = open(addr, options)
  -- `waiting` are the calls whose replies have not come, from `first` to `last`. Fields are never nil: an unknown name
  -- is a command.
  return setmetatable({
    addr = addr, options = options, stream = stream, waiting = {}, first = 1, last = 0, reader = false, closed = false,
  }, Client)
end

--- Ends the connection: the calls that wait get the error, and the next call connects again.
local function fail(self, e)
  self.stream:close()
  self.stream = false
  for i = self.first, self.last do
    local call = self.waiting[i]
    call.ok, call.value = false, e
    call.done:set()
  end
  self.waiting, self.first, self.last = {}, 1, 0
end

--- Reads replies as long as calls wait: the order of replies is that of the calls.
local function read_replies(self, stream)
  while self.stream == stream and self.first <= self.last do
    local read, ok, value = pcall(read_reply, stream)
    if self.stream ~= stream then break end
    if not read then
      fail(self, ok)
      break
    end
    local call = self.waiting[self.first]
    self.waiting[self.first] = nil
    self.first = self.first + 1
    call.ok, call.value = ok, value
    call.done:set()
  end
  if self.reader == stream then self.reader = false end
end

--- Sends a command and returns its reply. A caller that gives up, by `yue.timeout` for example, harms no other.
function Client:call(...)
  if self.closed then error(yue.errors.RuntimeError.new 'the Redis client is closed', 0) end
  if not self.stream then
    local stream = open(self.addr, self.options)
    -- Another fiber may have been faster.
    if self.stream then stream:close() else self.stream = stream end
  end
  local stream, call = self.stream, { done = yue.event() }
  self.last = self.last + 1
  self.waiting[self.last] = call
  -- `write` serves its callers in turn, so replies come in the order of this list. After a failed write nobody knows
  -- how much of the command was sent: the connection ends.
  local ok, e = pcall(stream.write, stream, encode(...))
  if not ok and self.stream == stream then fail(self, e) end
  if self.reader ~= stream and self.stream == stream then
    self.reader = stream
    yue.spawn(read_replies, self, stream)
  end
  call.done:wait()
  if not call.ok then error(call.value, 0) end
  return call.value
end

--- Closes the connection; calls that wait get an error.
function Client:close()
  self.closed = true
  if self.stream then fail(self, yue.errors.ConnectionLostError.new 'the Redis client was closed') end
end

--- Iterates over the messages of channels: each with its channel. The second result ends the loop by its `close`.
function redis.subscribe(addr, ...)
  local options, from = {}, 1
  if type((...)) == 'table' then options, from = (...), 2 end
  local stream = open(addr, options)
  stream:write(encode('SUBSCRIBE', select(from, ...)))
  local subscription = {}
  function subscription.close()
    subscription.closed = true
    stream:close()
  end
  return function()
    while true do
      local ok, is_reply, push = pcall(read_reply, stream)
      if subscription.closed then return nil end
      if not ok then error(is_reply, 0) end
      if not is_reply then error(push, 0) end
      if push[1] == 'message' then return push[3], push[2] end
    end
  end, subscription
end

return redis
