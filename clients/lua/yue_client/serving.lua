-- Coroutines that wait for answers, and the functions that the server calls, which run in some.
local values = require 'yue_client.values'
local links = require 'yue_client.link'

local S = {}
local errors, is_error = values.errors, values.is_error
local respond, respond_error = links.respond, links.respond_error

local WAIT = {} -- What a coroutine yields that waits for an answer.

-- Coroutines ----------------------------------------------------------------------------------------------------------

local running -- The fiber whose coroutine runs: { thread, client, done }.

local function is_running() return running and coroutine.running() == running.thread end

local step

local function after_step(fiber, previous, ok, ...)
  running = previous
  if not ok or coroutine.status(fiber.thread) == 'dead' then return fiber.done(ok, ...) end
  -- A plain coroutine.yield() waits for the next update.
  if ... ~= WAIT then fiber.client:defer(step, fiber) end
end

function step(fiber, ...)
  local previous = running
  running = fiber
  return after_step(fiber, previous, coroutine.resume(fiber.thread, ...))
end

local function finish_wait(ok, ...)
  if not ok then error((...), 0) end
  return ...
end

-- Runs a function in a coroutine: `fn(...)`, then `done(ok, ...)`.
local function start_fiber(client, fn, done, ...)
  step({ client = client, done = done, thread = coroutine.create(fn) }, ...)
end

-- Serving -------------------------------------------------------------------------------------------------------------

local function is_module(value)
  for _, module in pairs(package.loaded) do
    if module == value then return true end
  end
  return false
end

-- The function with a dotted name, or nil and the reason. Only entries of tables are found, no metatable is asked.
local function find(namespace, name)
  local shown = ('%q'):format(name:sub(1, 80))
  local found = namespace
  for segment in (name .. '.'):gmatch '(.-)%.' do
    if segment:sub(1, 1) == '_' then return nil, 'the method ' .. shown .. ' is private' end
    if type(found) ~= 'table' or found ~= namespace and is_module(found) then found = nil else
      found = rawget(found, segment)
    end
    if found == nil then return nil, 'there is no method ' .. shown end
  end
  if type(found) ~= 'function' then return nil, shown .. ' is not a function' end
  return found
end

local function describe(namespace, prefix, depth, found)
  for name, value in next, namespace do
    if type(name) == 'string' and name:sub(1, 1) ~= '_' and #found < 4096 then
      if type(value) == 'function' then found[#found + 1] = { name = prefix .. name }
      elseif type(value) == 'table' and depth < 32 and not is_module(value) then
        describe(value, prefix .. name .. '.', depth + 1, found)
      end
    end
  end
  table.sort(found, function(a, b) return a.name < b.name end)
  return found
end

-- Starts a function that the peer called, and that counts in `link.running` already. `msgid` is nil for a notification.
local function serve(link, msgid, name, fn, ...)
  local client = link.client
  local thread = coroutine.create(fn)
  local function fail(e)
    local traceback = debug.traceback(thread)
    client.options.log(('%s failed, called by %s: %s\n%s'):format(name, client.address, tostring(e), traceback))
    if msgid and not link.ended then
      respond_error(link, msgid, e, client.options.traceback and traceback or nil)
    end
  end
  local function done(ok, ...)
    link.running = link.running - 1
    if not ok then return fail((...)) end
    if not msgid or link.ended then return end
    local sent, e = pcall(respond, link, msgid, select('#', ...), ...)
    if not sent then fail(errors.ServerError.new(is_error(e) and e.msg or e)) end
  end
  step({ client = client, peer = client, done = done, thread = thread }, ...)
end

-- Waits, in a coroutine, until `step(fiber, ok, …)` continues it.
local function wait() return finish_wait(coroutine.yield(WAIT)) end

-- The fiber whose coroutine runs, or nil.
local function current() return is_running() and running or nil end

S.step, S.start, S.wait, S.current = step, start_fiber, wait, current
S.find, S.describe, S.serve = find, describe, serve

return S
