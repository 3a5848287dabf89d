-- The report of a loop, for people: each fiber of the program with its wait, location and age; its connections. The
-- first line names the most likely problem: fibers that wait for each other, very many of a kind, or else the longest
-- wait.
local core, yue, internal = ...
local type, rawget, ipairs, pairs, getmetatable = type, rawget, ipairs, pairs, getmetatable

-- The number of groups of fibers, and of connections, that are shown; and the number of samples of each.
local GROUPS_MAX, SAMPLES_MAX = 40, 4
-- This many of a kind count as a leak if there is no other problem.
local LEAK_MIN = 100
-- The maximum length of a chain of fibers that wait for each other.
local CHAIN_MAX = 1000

local RANK = { nothing = 0, wait = 1, leak = 2, cycle = 3 }

local function duration(seconds)
  if seconds < 0.001 then return ('%d µs'):format(seconds * 1e6) end
  if seconds < 1 then return ('%d ms'):format(seconds * 1e3) end
  if seconds < 120 then return ('%.1f s'):format(seconds) end
  return ('%d min'):format(seconds / 60)
end

local function plural(count, noun)
  return count == 1 and '1 ' .. noun or ('%d %ss'):format(count, noun)
end

local function text_of(value)
  return type(value) == 'string' and value or internal.to_text(value)
end

-- -- What fibers wait for --------------------------------------------------------------------------------------------

local labels -- of fibers, by number

local function location_of(fn)
  if type(fn) ~= 'function' then return 'an object that is called' end
  local info = debug.getinfo(fn, 'S')
  local own = info.what == 'C' or info.short_src:find('^%[yue%]/')
  return own and 'a function of a library' or ('%s:%d'):format(info.short_src, info.linedefined)
end

--- The location of the function of the program that a fiber runs; nil if the fiber is yue's own. A library's function
--- has no location, but the program may run one in a fiber (`yue.spawn(yue.sleep, 1)`).
local function origin_of(fiber)
  if fiber.origin then return fiber.origin end
  local fn = internal.function_of(fiber.id)
  if fn then return location_of(fn) end
  local work = core.work_of(fiber.id)
  if work and work ~= '' then return work:match('^(.-), ') or work end
  -- Of that name is the fiber of a script, and one that runs no Lua.
  return fiber.name == 'main' and core.traceback(fiber.id) and 'the script' or nil
end

local function label_of(fiber)
  local work = core.work_of(fiber.id)
  if work and work ~= '' then
    return work:find(fiber.origin, 1, true) and work or ('%s (%s)'):format(work, fiber.origin)
  end
  if fiber.name and fiber.origin then return ("fiber '%s' (%s)"):format(fiber.name, fiber.origin) end
  if fiber.name then return ("fiber '%s'"):format(fiber.name) end
  return ('fiber (%s)'):format(fiber.origin or 'not started')
end

local function call_text(node)
  local connection = rawget(node, 0)
  local address = type(connection) == 'table' and rawget(connection, '_address')
  local method = rawget(node, 2)
  if type(address) ~= 'string' or type(method) ~= 'string' then return nil end
  return ('the answer of %s method %s'):format(address, method)
end

local function future_text(future)
  if type(future) ~= 'table' then return 'a future' end
  local id = rawget(future, 'id')
  if type(id) == 'number' then return labels[id] or 'a fiber that has ended' end
  if rawget(future, 'id') == false and getmetatable(future) ~= internal.Future then
    return ("fiber '%s', which was never started"):format(text_of(rawget(future, 'name') or 'unnamed'))
  end
  local node = rawget(future, 'keep')
  return type(node) == 'table' and call_text(node) or text_of(future.what or 'a future')
end

local WAITS = {
  future = future_text,
  ['any future'] = function(list)
    local texts = {}
    for i, future in ipairs(type(list) == 'table' and list or {}) do
      if i > SAMPLES_MAX then texts[i] = '...' break end
      texts[i] = future_text(future)
    end
    return 'the first of ' .. table.concat(texts, ', ')
  end,
  event = function(entry)
    if type(entry) ~= 'table' then return 'an event' end
    return ('the event %s of %s'):format(text_of(entry.event), text_of(entry.emitter))
  end,
  mutex = function(mutex)
    local owner = type(mutex) == 'table' and rawget(mutex, 'owner')
    return owner and 'a mutex that is locked by ' .. (labels[owner] or 'a fiber that has ended') or 'a mutex'
  end,
}

-- The field that has the number of the fiber which will end the wait.
local AWAITED = { future = 'id', mutex = 'owner' }

--- Describes what a fiber waits for, and returns the number of the fiber that it waits for, if it is one.
local function awaited(fiber)
  local first, second, _, object = core.waits_in(fiber.id)
  local describe = type(first) == 'number' and WAITS[second]
  if describe then
    local id = AWAITED[second] and type(object) == 'table' and rawget(object, AWAITED[second])
    return describe(object), id or nil
  end
  if type(first) == 'string' and type(second) == 'table' then return call_text(second) or fiber.reason end
  if fiber.reason == 'sleep' then return 'the end of a sleep' end
  return fiber.reason
end

--- The lines of the program's own Lua that a fiber is in, innermost first.
local function lines_of(fiber)
  return internal.lines_of_fiber(fiber.id)
end

--- The same for the fiber with that number.
function internal.lines_of_fiber(id)
  local lines = {}
  for line in (core.traceback(id) or ''):gmatch('[^\n]+') do
    line = line:match('^%s*(.-)%s*$')
    local own = not line:find('^%[yue%]/') and not (#lines == 0 and line:find('^C function'))
    if own then lines[#lines + 1] = line end
  end
  -- The frames through which yue calls a fiber's function.
  while lines[#lines] and lines[#lines]:find('^C function') do lines[#lines] = nil end
  return lines
end

--- `, in function 'f' at file:line, called from …`
local function where_text(lines)
  local places = {}
  for _, line in ipairs(lines) do
    if not line:find('^C function') and line ~= 'resumed by' then places[#places + 1] = line end
    if #places == 2 then break end
  end
  if #places == 0 then return '' end
  return ', at ' .. places[1] .. (places[2] and ', called from ' .. places[2] or '')
end

-- -- Groups ----------------------------------------------------------------------------------------------------------

local function sorted(groups, weight)
  local list = {}
  for _, group in pairs(groups) do list[#list + 1] = group end
  table.sort(list, function(a, b)
    if a[weight] ~= b[weight] then return a[weight] > b[weight] end
    return a.key < b.key
  end)
  return list
end

local function add(groups, key, one)
  local group = groups[key]
  if not group then
    group = { key = key, count = 0, seconds = 0, samples = {} }
    groups[key] = group
  end
  group.count = group.count + 1
  group.seconds = math.max(group.seconds, one.seconds)
  local samples = group.samples
  samples[#samples + 1] = one
  table.sort(samples, function(a, b) return a.seconds > b.seconds end)
  samples[SAMPLES_MAX + 1] = nil
  return group
end

-- -- Fibers ----------------------------------------------------------------------------------------------------------

--- Describes fibers that wait for each other in a circle, as a sentence; nil if there are none.
local function find_cycle(fibers)
  local by_id, next_of, visited = {}, {}, {}
  for _, fiber in ipairs(fibers) do
    by_id[fiber.id] = fiber
    if fiber.waits then next_of[fiber.id] = select(2, awaited(fiber)) end
  end
  for _, fiber in ipairs(fibers) do
    local chain, id = {}, fiber.id
    local index_of = {}
    while id and by_id[id] and not visited[id] and #chain < CHAIN_MAX do
      visited[id] = true
      chain[#chain + 1] = id
      index_of[id] = #chain
      id = next_of[id]
    end
    if id and index_of[id] then
      local first = by_id[id]
      local text = labels[id] .. ' waits for '
      for i = index_of[id] + 1, #chain do text = text .. labels[chain[i]] .. ', which waits for ' end
      local itself = index_of[id] == #chain and 'itself' or labels[id]
      return ('deadlock: %s%s, for %s%s'):format(text, itself, duration(first.seconds), where_text(lines_of(first)))
    end
  end
end

local function write_fibers(out, groups)
  for i, group in ipairs(groups) do
    if i > GROUPS_MAX then
      out[#out + 1] = ('  and %d more groups of fibers'):format(#groups - GROUPS_MAX)
      break
    end
    local first = group.samples[1]
    local who = group.count == 1 and labels[first.id] or ('%d fibers (%s)'):format(group.count, first.origin or '?')
    local what = first.waits and 'waits for ' .. awaited(first) .. ', since ' or 'is ready to run, since '
    if group.count > 1 then what = what:gsub('^waits', 'wait'):gsub('^is', 'are') .. 'up to ' end
    out[#out + 1] = ('  %s %s%s'):format(who, what, duration(group.seconds))
    for _, line in ipairs(lines_of(first)) do out[#out + 1] = '      ' .. line end
  end
end

--- Names the call chains of which several handlers wait here: such a call has come back, and a handler that waits for
--- what an earlier one has waits for itself.
local function write_chains(out, own)
  local chains = {}
  for _, fiber in ipairs(own) do
    local work = fiber.waits and core.work_of(fiber.id)
    local chain = work and work ~= '' and core.call_chain_of(fiber.id)
    if chain then
      local handlers = chains[chain] or { key = chain, seconds = 0 }
      chains[chain] = handlers
      handlers[#handlers + 1] = ('      %s waits for %s, since %s'):format(
        labels[fiber.id], awaited(fiber), duration(fiber.seconds)
      )
      handlers.seconds = math.max(handlers.seconds, fiber.seconds)
    end
  end
  local shown = 0
  for _, handlers in ipairs(sorted(chains, 'seconds')) do
    if #handlers > 1 and shown < GROUPS_MAX then
      shown = shown + 1
      out[#out + 1] = ('  call chain %s has come back: %d handlers of it wait here'):format(handlers.key, #handlers)
      for i = 1, math.min(#handlers, SAMPLES_MAX) do out[#out + 1] = handlers[i] end
    end
  end
end

-- -- Connections -----------------------------------------------------------------------------------------------------

local function origin_of_connection(one)
  if one.opened then
    local connection = internal.connections[one.id]
    local line = connection and rawget(connection, '_opened_at')
    return ('to %s%s'):format(one.address, line and ', opened at ' .. line or '')
  end
  local listener = internal.listeners[one.id]
  return 'accepted at ' .. (listener and listener._address or 'a listener that is closed')
end

local function write_connections(out, groups)
  for i, group in ipairs(groups) do
    if i > GROUPS_MAX then
      out[#out + 1] = ('  and %d more groups of connections'):format(#groups - GROUPS_MAX)
      break
    end
    out[#out + 1] = ('  %s %s'):format(plural(group.count, 'connection'), group.key)
    for _, one in ipairs(group.samples) do
      out[#out + 1] = ('      %s: %s, %s old, %d bytes queued, %s, %s'):format(
        one.address, one.up and 'up' or 'not up', duration(one.seconds), one.queued,
        plural(one.calls, 'call') .. ' in flight', plural(one.requests, 'request') .. ' served'
      )
    end
    if group.count > SAMPLES_MAX then out[#out + 1] = ('      and %d more'):format(group.count - SAMPLES_MAX) end
  end
end

-- -- The first line --------------------------------------------------------------------------------------------------

local function leak_of(groups, noun)
  local largest
  for _, group in ipairs(groups) do
    -- Of the two ends of a connection, the one that opened it has a line.
    local better = largest and group.samples[1].opened and not largest.samples[1].opened
    if group.count >= LEAK_MIN and (not largest or better or group.count > largest.count) then largest = group end
  end
  return largest and {
    count = largest.count,
    text = ('%d %ss %s, the oldest since %s: is it a leak?'):format(
      largest.count, noun, noun == 'fiber' and 'wait for ' .. awaited(largest.samples[1])
        .. where_text(lines_of(largest.samples[1])) or largest.key, duration(largest.seconds)
    ),
  }
end

local function headline(own, fibers, connections)
  local cycle = find_cycle(own)
  if cycle then return RANK.cycle, cycle end
  local first, second = leak_of(fibers, 'fiber'), leak_of(connections, 'connection')
  -- Connections that leak create handlers, and so fibers.
  if second and (not first or second.count * 2 >= first.count) then first = second end
  if first then return RANK.leak, first.text end
  for _, group in ipairs(fibers) do
    local longest = group.samples[1]
    if longest.waits then
      return RANK.wait, ('%s waits for %s, since %s%s'):format(
        labels[longest.id], awaited(longest), duration(longest.seconds), where_text(lines_of(longest))
      )
    end
  end
  return RANK.nothing, 'no fiber of the program waits'
end

--- Returns the weight of the first line, that line, and the rest of the report.
function internal.make_report()
  labels = {}
  local own, hidden, fiber_groups = {}, 0, {}
  for _, fiber in ipairs(core.fibers()) do
    -- A fiber that runs none of the program's functions is yue's own.
    fiber.origin = origin_of(fiber)
    if fiber.origin then
      own[#own + 1] = fiber
      labels[fiber.id] = label_of(fiber)
    else
      hidden = hidden + 1
    end
  end
  for _, fiber in ipairs(own) do
    local key = ('%s|%s|%s'):format(fiber.waits and fiber.reason or '', fiber.origin, fiber.name or '')
    add(fiber_groups, key, fiber)
  end
  local connection_groups, sessions = {}, core.sessions()
  for _, one in ipairs(sessions) do add(connection_groups, origin_of_connection(one), one) end
  local fibers = sorted(fiber_groups, 'seconds')
  local connections = sorted(connection_groups, 'count')
  local rank, first = headline(own, fibers, connections)
  local out = {
    ('loop %s: %s of the program, %d of yue\'s own, %s'):format(
      core.name, plural(#own, 'fiber'), hidden, plural(#sessions, 'connection')
    ),
  }
  write_fibers(out, fibers)
  write_chains(out, own)
  write_connections(out, connections)
  return rank, first, table.concat(out, '\n')
end
