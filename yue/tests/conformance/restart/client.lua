-- Calls the server from 1 000 fibers while that is killed and started again, or while links are cut, and checks what
-- becomes of each call.
--
-- Arguments: folder, transport, address, and rounds (how often a thread is ended). The file `finish` in the folder ends
-- it: every fiber must then succeed once more.
--
-- A call has a number, which the server writes into the journal when it executes the call. So the journal shows that no
-- call ran twice, that one which was answered did run, and that one which failed and is `retryable` did not.
local here = debug.getinfo(1, 'S').source:match '^@(.*)/' or '.'
package.path = here .. '/../lib/?.lua;' .. package.path
local folder, scheme, address = yue.args.folder, yue.args.transport, yue.args.address

local FIBERS = 1000
--- Of a call; a restart takes a fraction of it.
local SECONDS_MAX = 60

local transport
for _, candidate in ipairs(require 'transports') do
  if candidate.scheme == scheme then transport = candidate end
end

local thread
local function start_thread() thread = yue.thread('server', here .. '/server.lua', { timeout = 60 }, nil) end

if transport.server == 'child' then
  local lowest = 0
  while arg[lowest - 1] do lowest = lowest - 1 end
  address = ("popen://exec '%s' --io %s '%s/server.lua' 'folder=%s' address=stdio://")
    :format(arg[lowest], yue.feature.driver, here, folder)
elseif transport.server == 'thread' then
  address = 'thread://restart'
  start_thread()
end

-- -- Calls ------------------------------------------------------------------------------------------------------------

local outcomes = {} -- by number: 'answered', 'unsent' (failed, retryable) or 'unknown' (failed, not retryable)
local counts = { answered = 0, unsent = 0, unknown = 0, timeouts = 0, repeated = 0 }
local kinds = {} -- of errors
local last = 0

--- A connection of one of the kinds: it reconnects, it also waits for the first server, or it is lost with its link.
local function open(kind)
  local options = { no_cache = true, timeout = SECONDS_MAX, retry = kind == 2, reconnect = kind ~= 3 }
  for key, value in pairs(transport.open or {}) do options[key] = value end
  return yue.open(address, options, { confirm = function(id) return id end })
end

local text = ('x'):rep(30000)
local ways = {
  function(c, id) return c.work(id) end,
  function(c, id) return c.nap(id) end,
  function(c, id) return c.async_work(id):get() end,
  function(c, id) return c.ask(id) end,
  function(c, id)
    if id % 10 ~= 0 then return c.nap(id) end
    local answered, back = c.big(id, text)
    assert(back == text, 'a text was damaged')
    return answered
  end,
  function(c, id) return c.pass(id, function(x) return x end) end,
  -- Some give up, and nobody may get their late answers.
  function(c, id)
    if id % 3 == 0 then return c.nap(id) end
    return c.timed_nap(0.01, id)
  end,
  function(c, id)
    local future = c.async_nap(id)
    yue.sleep(0.001 * (id % 15))
    future:cancel()
    return future:get()
  end,
}

--- One call, by one of the ways or by `way`, with a number of its own. Returns whether it was answered. One that
--- certainly did not run is repeated by every second fiber, under the same number.
local function call(c, fiber, way)
  last = last + 1
  local id = last
  while true do
    local ok, answer
    if way then ok, answer = pcall(way, id) else ok, answer = pcall(ways[id % #ways + 1], c, id) end
    if ok then
      assert(answer == id, ('call %d got the answer of call %s'):format(id, tostring(answer)))
      assert(outcomes[id] ~= 'answered', 'it was answered twice')
      outcomes[id] = 'answered'
      counts.answered = counts.answered + 1
      return true
    end
    if type(answer) ~= 'table' or not answer.is_a then error(answer, 0) end
    assert(type(answer.retryable) == 'boolean', 'retryable is neither true nor false: ' .. tostring(answer))
    kinds[answer.type] = (kinds[answer.type] or 0) + 1
    if answer.type == 'TimeoutError' then counts.timeouts = counts.timeouts + 1 end
    if not answer.retryable or fiber % 2 == 0 then
      outcomes[id] = answer.retryable and 'unsent' or 'unknown'
      counts[outcomes[id]] = counts[outcomes[id]] + 1
      return false
    end
    counts.repeated = counts.repeated + 1
    yue.sleep(0.01)
  end
end

local finishing = false
local function run(c, fiber)
  while not finishing do
    call(c, fiber)
    yue.sleep(0.05 + 0.001 * (fiber % 100))
  end
  -- The server is back, so that a few calls suffice.
  for _ = 1, 10 do
    if call(c, fiber, c.work) then return end
  end
  error('a fiber does not succeed although the server is back')
end

-- Most fibers share a connection; others have few neighbours, or none.
local shared = open(1)
local fibers = {}
for fiber = 1, FIBERS do
  local c = shared
  -- With `popen` each connection is a process.
  local own = transport.server == 'child' and fiber > FIBERS - 2 or transport.server ~= 'child' and fiber > FIBERS - 50
  if own then c = open(1 + fiber % 3) end
  fibers[fiber] = yue.fiber(run, 'caller ' .. fiber):run(c, fiber)
end

-- -- The end ----------------------------------------------------------------------------------------------------------

local function exists(file)
  local handle = io.open(folder .. '/' .. file)
  if handle then handle:close() end
  return handle ~= nil
end

if thread then
  local crasher = open(1)
  for _ = 1, tonumber(yue.args.rounds) do
    local goal = counts.answered + 1000
    while counts.answered < goal do yue.sleep(0.005) end
    pcall(crasher.crash)
    assert(not pcall(thread.join, thread), 'the thread has not crashed')
    start_thread()
  end
else
  while not exists 'finish' do yue.sleep(0.01) end
end
finishing = true
yue.all(fibers)

local executed, file = {}, assert(io.open(folder .. '/journal'))
for line in file:lines() do
  local id = assert(tonumber(line), 'the journal is damaged: ' .. line)
  executed[id] = (executed[id] or 0) + 1
end
file:close()
for id = 1, last do
  local times, outcome = executed[id] or 0, outcomes[id]
  assert(times <= 1, ('call %d ran %d times'):format(id, times))
  assert(outcome, ('call %d has no outcome'):format(id))
  assert(outcome ~= 'answered' or times == 1, ('call %d was answered and did not run'):format(id))
  assert(outcome ~= 'unsent' or times == 0, ('call %d ran, but its error says that it may be repeated'):format(id))
end
local stats = yue.conn(shared):stats()
assert(stats.calls_in_flight == 0, 'calls are in flight')
local names = {}
for name, count in pairs(kinds) do names[#names + 1] = ('%s %d'):format(name, count) end
table.sort(names)
print(('calls %d answered %d unsent %d unknown %d repeated %d timeouts %d links %d errors: %s')
  :format(last, counts.answered, counts.unsent, counts.unknown, counts.repeated, counts.timeouts, stats.links,
    table.concat(names, ', ')))
if thread then thread:close() end
print 'done'
