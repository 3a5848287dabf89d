-- Channels: queues of values between the fibers of one loop.
--
-- The values are in a ring, whose slots are reused. Fibers wait in two lists: `getters` only while the ring is empty
-- and no fiber waits to put, `putters` only while it is full. A value for a waiting fiber is passed on in the entry of
-- its wait (see locks.lua), so a fiber that comes later cannot take it.
local core, yue, internal = ...
local setmetatable, type, error = setmetatable, type, error
local check_seconds = internal.check_seconds
local enlist, await, serve, recycle = internal.enlist_value, internal.await_entry, internal.serve, internal.recycle

-- More values would be a mistake: memory is bounded by this.
local CAPACITY_MAX = 2 ^ 24

local Channel = internal.new_class 'channel'

local function check_put(self, value, timeout)
  if value == nil then
    internal.argument_error('channel:put takes a value, not nil, which is what get returns from a closed channel')
  end
  if timeout ~= nil then check_seconds('channel:put', timeout) end
  if self.closed then error(yue.errors.RuntimeError.new('the channel is closed: no value can be put'), 0) end
end

--- Puts a value at the end: waits while the channel is full. Returns true, or false after `timeout` seconds. Raises if
--- the channel is closed, or becomes so during the wait.
function Channel:put(value, timeout)
  if value == nil or timeout ~= nil or self.closed then check_put(self, value, timeout) end
  local getter = self.getters.first
  if getter then
    getter.value = value
    serve(getter)
    return true
  end
  local size, capacity = self.size, self.capacity
  if size < capacity then
    local at = self.tail
    self[at] = value
    self.tail = at < capacity and at + 1 or 1
    self.size = size + 1
    return true
  end
  if timeout and timeout <= 0 then return false end
  local entry = enlist(self.putters, value)
  local is_put = await(entry, timeout, 'room', self)
  local was_closed = entry.closed
  recycle(entry)
  if was_closed then check_put(self, value) end
  return is_put
end

--- Takes the first value: waits while there is none. Returns nil and 'closed' once the channel is closed and empty, nil
--- and 'timeout' after `timeout` seconds.
function Channel:get(timeout)
  if timeout ~= nil then check_seconds('channel:get', timeout) end
  local size = self.size
  local putter = self.putters.first
  if size > 0 then
    local at, capacity = self.head, self.capacity
    local value = self[at]
    self.head = at < capacity and at + 1 or 1
    if putter then
      -- The ring is full, so the slot that is free now is its end.
      self[at], self.tail = putter.value, self.head
      serve(putter)
    else
      -- Not nil: the table would shrink.
      self[at], self.size = false, size - 1
    end
    return value
  end
  if putter then
    serve(putter)
    return putter.value
  end
  if self.closed then return nil, 'closed' end
  if timeout and timeout <= 0 then return nil, 'timeout' end
  local entry = enlist(self.getters)
  local is_served = await(entry, timeout, 'value', self)
  local given, was_closed = entry.value, entry.closed
  recycle(entry)
  if not is_served then return nil, 'timeout' end
  if was_closed then return nil, 'closed' end
  return given
end

local function end_waits(list)
  local entry = list.first
  while entry do
    entry.closed = true
    serve(entry)
    entry = list.first
  end
end

--- Closes the channel: its values can still be taken. Fibers that wait to put get an error.
function Channel:close()
  if self.closed then return end
  self.closed = true
  end_waits(self.putters)
  end_waits(self.getters)
end

--- The number of values in the channel, without those of fibers that wait to put.
function Channel:count()
  return self.size
end

-- For `for value in channel do`, which passes the last value.
function Channel:__call()
  return (self:get())
end

function Channel:__tostring()
  return ('channel (%d of %d values%s)'):format(self.size, self.capacity, self.closed and ', closed' or '')
end

--- Creates a channel that holds up to `capacity` values. With 0, the default, each `put` waits for its `get`.
function yue.channel(capacity)
  if capacity == nil then capacity = 0 end
  if type(capacity) ~= 'number' or not (capacity >= 0 and capacity <= CAPACITY_MAX) or capacity % 1 ~= 0 then
    internal.argument_error(('yue.channel takes a capacity, a whole number from 0 to %d, not %s'):format(
      CAPACITY_MAX, internal.describe_value(capacity)))
  end
  return setmetatable({
    nil, -- room for a value
    capacity = capacity, size = 0, head = 1, tail = 1, closed = false, getters = {}, putters = {},
  }, Channel)
end
