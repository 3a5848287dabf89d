--! stderr: is not secure: its server is not verified
-- Every call that waits, stopped in every possible way: cancelled before it waits and while it does, by timeouts,
-- nested ones, one within a shield, and by the deadline of a caller.
local check = require 'check'

local function slow() yue.sleep(3600) end
-- Handlers stop with their callers, or they would pile up.
local long = { no_cache = true, timeout = 3600, cancel = true }
local listener = yue.listen('tcp://127.0.0.1:0', { cancel = true }, {
  slow = slow,
  ask = function() yue.peer().procs.slow() end,
})
local c = yue.open(listener:addr(), long, { slow = slow })
-- A port of the system's own choice would soon be that of another program.
local nobody = 'tcp://127.0.0.1:1'
local thread = yue.thread('waits', function()
  yue.thread.current:import { slow = function() yue.sleep(3600) end }
end, { cancel = true }, nil)
local silent = yue.emitter()
-- Clients wait in the kernel, and nobody writes to them or reads from them.
local streams = yue.net.listen 'tcp://127.0.0.1:0'
local datagrams = yue.net.udp 'udp://127.0.0.1:0'
local function with_stream(wait)
  return function()
    local stream = yue.net.connect(streams:addr())
    local ok, e = pcall(wait, stream)
    stream:close()
    if not ok then error(e, 0) end
  end
end

-- With a future that is never done, and is not left behind.
local function with_future(wait)
  return function()
    local future = yue.spawn(slow)
    local ok, e = pcall(wait, future)
    future:cancel()
    if not ok then error(e, 0) end
  end
end

local calls = {
  sleep = slow,
  yield = function() while true do yue.yield() end end,
  get = with_future(function(future) future:get() end),
  sync = with_future(function(future) future:sync() end),
  all = with_future(function(future) yue.all { future } end),
  any = with_future(function(future) yue.any { future } end),
  wait = function() silent:wait('never') end,
  ['wait, for so long'] = function() silent:wait('never', 3600) end,
  call = function() c.slow() end,
  ['call, with its time'] = function() c.timed_slow(3600) end,
  ['call, in both directions'] = function() c.ask() end,
  ['call, for its future'] = function() c.async_slow():get() end,
  ['call, before there is a server'] = function()
    yue.open(nobody, { retry = true, no_cache = true, timeout = 3600 }, nil).f()
  end,
  ['call of a thread'] = function() thread.procs.timed_slow(3600) end,
  ['join of a thread'] = function() thread:join() end,
  ['read from a stream'] = with_stream(function(stream) stream:read() end),
  ['line of a stream'] = with_stream(function(stream) stream:line() end),
  ['write to a stream'] = with_stream(function(stream)
    while true do stream:write(('x'):rep(100000)) end
  end),
  ['TLS of a stream'] = with_stream(function(stream) stream:starttls { insecure = true, timeout = 3600 } end),
  accept = function() while true do streams:accept() end end,
  receive = function() datagrams:receive() end,
  client = function()
    local _, e = yue.client(function() end)
    error(e, 0)
  end,
  ['sleep in a comparator'] = function() table.sort({ 2, 1 }, slow) end,
  ['sleep in a metamethod'] = function() return setmetatable({}, { __index = slow }).x end,
  ['sleep in a coroutine'] = function()
    local ok, e = coroutine.resume(coroutine.create(slow))
    if not ok then error(e, 0) end
  end,
}

local function cancelled_first(fn, ...)
  yue.fiber.current():cancel()
  return fn(...)
end

local ways = {
  { 'cancelled while it waits', 'CancelledError', function(call)
    local fiber = yue.spawn(call)
    yue.sleep(0.003)
    check.that(not fiber:done(), 'it waits')
    fiber:cancel()
    fiber:get()
  end },
  { 'cancelled before', 'CancelledError', function(call) yue.spawn(cancelled_first, call):get() end },
  { 'a timeout', 'TimeoutError', function(call) yue.timeout(0.003, call) end },
  { 'an outer timeout', 'TimeoutError', function(call) yue.timeout(0.003, yue.timeout, 3600, call) end },
  { 'an inner timeout', 'TimeoutError', function(call) yue.timeout(3600, yue.timeout, 0.003, call) end },
  { 'a timeout in a shield', 'TimeoutError', function(call)
    yue.spawn(cancelled_first, yue.shield, yue.timeout, 0.003, call):get()
  end },
}

-- Handlers are not listed, so the end of a call on the peer is seen by what it runs.
local function running() return #yue.fiber.list() end
local before = running()
for name, call in pairs(calls) do
  for _, way in ipairs(ways) do
    local what, class, stop = unpack(way)
    local ok, e = pcall(stop, call)
    check.that(not ok, name .. ' went on: ' .. what)
    check.equal(type(e) == 'table' and e.type or tostring(e), class, name .. ', ' .. what)
    check.eventually(function() return running() == before end, name .. ' leaves fibers behind: ' .. what)
  end
end

-- The deadline of a caller, and the cancel that follows it: whichever is first.
local how = {}
local relays = yue.listen('tcp://127.0.0.1:0', { cancel = true }, {
  run = function(name)
    how[name] = 'waits'
    local _, e = pcall(calls[name])
    how[name] = type(e) == 'table' and e.type or tostring(e)
    error(e, 0)
  end,
})
local relay = yue.open(relays:addr(), long, nil)
for name in pairs(calls) do
  local seconds = 0.01
  repeat -- On a machine that is busy the time may be over before the handler has started.
    check.raises('TimeoutError', nil, relay.timed_run, seconds, name)
    seconds = seconds * 2
  until how[name]
  check.eventually(function() return how[name] ~= 'waits' end, name .. ' still waits')
  check.that(how[name] == 'TimeoutError' or how[name] == 'CancelledError', name .. ': ' .. how[name])
end
check.eventually(function() return running() == before end, 'a handler leaves fibers behind')

relays:close()
listener:close()
thread:close()
check.done()
