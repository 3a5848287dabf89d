--! stderr: the link to tcp://127.0.0.1
--! stderr: a message began, but did not grow by 1 KiB in 0.2 s
-- The limits of a listener as a whole: each is lowered and raised from Lua, and a stranger meets it.
local check = require 'check'
local raw = require 'raw'
local yue = require 'yue'

local function open(listener, options)
  options = options or {}
  options.no_cache = true
  return yue.open(listener:addr(), options, nil)
end

-- connections_max
for _, limit in ipairs { 2, 3 } do
  local listener = yue.listen('tcp://127.0.0.1:0', { connections_max = limit }, { f = function() return 'f' end })
  local inside = {}
  for i = 1, limit do
    inside[i] = open(listener)
    check.equal(inside[i].f(), 'f')
  end
  local late = open(listener)
  check.raises('NotGrantedError', limit .. ' connections, its limit', late.f)
  check.equal(inside[1].f(), 'f')
  check.eventually(function() return listener:stats().connections == limit end)
  yue.conn(inside[2]):close()
  check.eventually(function() return pcall(late.f) end, 'there is room again')
  listener:close()
end

-- The program hears nothing of a connection that is one too many, so that what it counts comes out even.
do
  local opened, over, accepted, closed = 0, 0, 0, 0
  local listener = yue.listen('tcp://127.0.0.1:0', { connections_max = 1 }, {
    __open = function() opened = opened + 1 end,
    __close = function() over = over + 1 end,
    f = function() return 'f' end,
  })
  listener:bind('accept', function() accepted = accepted + 1 end)
  listener:bind('close', function() closed = closed + 1 end)
  local inside = open(listener)
  check.equal(inside.f(), 'f')
  for _ = 1, 3 do
    local late = open(listener, { reconnect = false })
    check.raises('NotGrantedError', '1 connections, its limit', late.f)
    check.equal(#listener:connections(), 1)
    yue.conn(late):close()
  end
  check.eventually(function() return listener:stats().connections == 1 end)
  check.equal({ opened, over, accepted, closed }, { 1, 0, 1, 0 })
  yue.conn(inside):close()
  check.eventually(function() return over == 1 and closed == 1 end)
  listener:close()
end

-- handlers_max: how many naps of 20 are taken at a time.
for limit, taken in pairs { [8] = 8, [40] = 20 } do
  local started, go = 0, yue.emitter()
  local listener = yue.listen('tcp://127.0.0.1:0', { handlers_max = limit }, {
    nap = function()
      started = started + 1
      go:wait('go')
    end,
  })
  local c = open(listener)
  local naps, busy = {}, 0
  for i = 1, 20 do naps[i] = c.async_nap() end
  check.eventually(function()
    busy = 0
    for i = 1, 20 do
      if naps[i]:done() then busy = busy + 1 end
    end
    return started + busy == 20
  end)
  check.equal(started, taken)
  if busy > 0 then
    local e = check.raises('ServerBusyError', "the server's limit of " .. limit, naps[20].get, naps[20])
    check.that(e.retryable)
  end
  go:emit('go')
  for i = 1, 20 do naps[i]:sync() end
  listener:close()
end

-- memory_max counts what arguments become in Lua: 1 000 empty tables are a kilobyte on the wire, and 64 here.
local tables = {}
for i = 1, 1000 do tables[i] = {} end
for limit, all in pairs { [500e3] = false, [50e6] = true } do
  local started, go, opened = 0, yue.emitter(), false
  local listener = yue.listen('tcp://127.0.0.1:0', { memory_max = limit }, {
    keep = function(list)
      started = started + 1
      if not opened then go:wait('go') end
      return #list
    end,
    f = function() return 'f' end,
  })
  local bystander, c = open(listener), open(listener, { timeout = 60 })
  check.equal(bystander.f(), 'f')
  check.equal(c.f(), 'f')
  local calls = {}
  for i = 1, 100 do
    calls[i] = c.async_keep(tables)
    yue.yield()
  end
  local function stopped()
    for _, connection in ipairs(listener:connections()) do
      if connection:stats().memory_stopped > 0 then return true end
    end
  end
  check.eventually(function() return all and started == 100 or not all and stopped() end)
  if not all then
    check.that(started < 100, 'it is read on without a limit')
    check.that(listener:stats().memory >= limit)
  end
  -- Who holds little is served all the while.
  check.equal(bystander.f(), 'f')
  opened = true
  go:emit('go')
  for i = 1, 100 do check.equal(calls[i]:get(), 1000) end
  check.equal(started, 100)
  check.that(listener:stats().memory < 10e3, 'it is given back')
  listener:close()
end

-- message_time: a message that has begun must make progress.
local short = yue.listen('tcp://127.0.0.1:0', { message_time = 0.2 }, {})
local long = yue.listen('tcp://127.0.0.1:0', { message_time = 60 }, { f = function() return 'f' end })
local slow, patient = raw.connect(short:addr()), raw.connect(long:addr())
local begun = '\x94\x00\x07'
slow:send(begun)
patient:send(begun)
check.eventually(function() return slow:listen() end)
check.that(not patient:listen())
patient:send '\xa1f\x90'
check.eventually(function() return patient:listen() or #patient.heard == 6 end)
check.equal(patient.heard, '\x94\x01\x07\xc0\xa1f')
slow:close()
patient:close()
short:close()
long:close()

for _, option in ipairs { 'connections_max', 'handlers_max', 'memory_max', 'message_time' } do
  for _, wrong in ipairs { 0, -1, 'x', true } do
    check.raises('ArgumentError', option, yue.listen, 'tcp://127.0.0.1:0', { [option] = wrong }, {})
  end
end
local counts = {
  'message_max', 'nesting_max', 'decoded_max', 'in_flight_max', 'held_max', 'output_high', 'output_max',
  'references_max', 'connections_max', 'handlers_max', 'memory_max',
}
for _, option in ipairs(counts) do
  local text = option .. ' is a number of at least 1, not the number 0.5'
  check.raises('ArgumentError', text, yue.listen, 'tcp://127.0.0.1:0', { [option] = 0.5 }, {})
end
check.done()
