-- The waits of fibers for the graph over all processes: what ends each of them. See the admin method `wait_graph`.
local core, yue, internal = ...
local type, rawget, ipairs, tostring = type, rawget, ipairs, tostring
local getmetatable, setmetatable = getmetatable, setmetatable

-- Between the fields of a fiber, and between fibers. No text has them.
local FIELD, FIBER = '\31', '\30'

local TEXT_MAX = 200
-- The maximum number of fibers and calls that one wait names. A wait with more counts as one that anything may end.
local TARGETS_MAX = 64
-- The fibers that are looked at for those that hold a semaphore: 1 µs each.
local SCANNED_MAX = 10000

local function clean(text)
  return (tostring(text):gsub('%c', ' '):sub(1, TEXT_MAX))
end

local function new_wait(kind)
  -- `open`: something else than these fibers and calls may end the wait.
  return { kind = kind, open = false, fibers = {}, calls = {}, text = '', method = '' }
end

local function open(wait, text)
  wait.open, wait.text = true, text
  return wait
end

--- Adds the fiber or the call that completes a future.
local function add_future(wait, future)
  if type(future) ~= 'table' then return open(wait, 'a future') end
  local id = rawget(future, 'id')
  if type(id) == 'number' then
    wait.fibers[#wait.fibers + 1] = id
    return wait
  end
  if id == false and getmetatable(future) ~= internal.Future then
    local name = internal.to_text(rawget(future, 'name') or 'unnamed')
    return open(wait, ("fiber '%s', which was never started"):format(name))
  end
  local number = rawget(future, 'what') == 'a call' and rawget(future, 'call')
  local call = type(number) == 'number' and core.call_of(number)
  if not call then return open(wait, internal.to_text(rawget(future, 'what') or 'a future')) end
  local node = rawget(future, 'keep')
  local method = type(node) == 'table' and rawget(node, 2)
  wait.calls[#wait.calls + 1] = call
  wait.method = type(method) == 'string' and method or ''
  return wait
end

-- Fibers by the semaphores that they hold by `with`; found once for a collection, when it comes to a semaphore.
local holders, collected = nil, nil

--- The fibers that hold a semaphore by `with`, once for each permit.
local function holders_of(semaphore)
  if not holders then
    holders = setmetatable({}, { __mode = 'k' })
    local ids = core.fiber_numbers()
    for i = 1, math.min(#ids, SCANNED_MAX) do
      local _, why, _, awaited = core.waits_in(ids[i])
      for _, held in ipairs { core.calls_of(internal.semaphore_with, ids[i]) } do
        if why == 'semaphore' and held == awaited then
          -- Its innermost call waits for the permit.
          awaited = nil
        else
          local list = holders[held] or {}
          holders[held] = list
          list[#list + 1] = ids[i]
        end
      end
    end
  end
  return holders[semaphore]
end

local WAITS = {
  future = function(future) return add_future(new_wait 'future', future) end,
  ['any future'] = function(list)
    local wait = new_wait 'futures'
    for i, future in ipairs(type(list) == 'table' and list or {}) do
      if i > TARGETS_MAX then return open(wait, 'many futures') end
      if type(future) == 'table' and not rawget(future, 'finished') then add_future(wait, future) end
    end
    return wait
  end,
  mutex = function(mutex)
    local wait, owner = new_wait 'mutex', type(mutex) == 'table' and rawget(mutex, 'owner')
    if type(owner) ~= 'number' then return open(wait, 'a mutex that is locked outside fibers') end
    wait.fibers[1] = owner
    return wait
  end,
  semaphore = function(semaphore)
    local wait = new_wait 'semaphore'
    local permits = type(semaphore) == 'table' and internal.permits_in_with(semaphore)
    local list = permits and holders_of(semaphore) or {}
    for i, id in ipairs(list) do
      if i > TARGETS_MAX then return open(wait, 'a semaphore with many holders') end
      wait.fibers[i] = id
    end
    -- A permit may be on its way to a fiber that was woken.
    return permits == #list and wait or open(wait, 'a semaphore')
  end,
}

--- Describes the wait of a fiber.
local function describe(id)
  local first, second, _, object = core.waits_in(id)
  local known = type(first) == 'number' and type(second) == 'string' and WAITS[second]
  if known then return known(object) end
  if type(first) == 'string' and type(second) == 'table' then
    local wait, method = new_wait 'call', rawget(second, 2)
    wait.method = type(method) == 'string' and method or ''
    return wait
  end
  return open(new_wait 'other', '')
end

local function place_of(id)
  for _, line in ipairs(internal.lines_of_fiber(id)) do
    local place = line:match('^(.-:%d+)')
    if place and not line:find('^C function') then return place end
  end
  return ''
end

--- Describes what the fibers with these numbers wait for in that collection, as text: for each its number, kind of
--- wait, `open` or empty, description, numbers of the fibers and calls that may end the wait, method, place, and the
--- handler that it runs.
function internal.describe_waits(collection, ...)
  local out = {}
  if collected ~= collection then holders, collected = nil, collection end
  for i, id in ipairs { ... } do
    local wait = describe(id)
    out[i] = table.concat({
      ('%.0f'):format(id), wait.kind, wait.open and 'open' or '', clean(wait.text), table.concat(wait.fibers, ','),
      table.concat(wait.calls, ','), clean(wait.method), clean(place_of(id)), clean(core.work_of(id) or ''),
    }, FIELD)
  end
  return table.concat(out, FIBER)
end
