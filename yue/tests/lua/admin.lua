--! args: one two=2
--! stderr: the handler of fail failed
-- The admin endpoint of a running program: each of its methods, with this very program as its subject.
local check = require 'check'
local endpoint = require 'admin'

local never = yue.emitter()
local symbols = { hello = function() return 'hello' end, fail = function() error 'no' end }
local l = yue.listen('tcp://127.0.0.1:0', symbols)
local c = yue.open(l:addr(), { no_cache = true }, nil)
check.equal(c.hello(), 'hello')
check.raises('RuntimeError', 'no', c.fail)

local a = endpoint.open()
local conn = yue.conn(a)

-- Its description.
local names = {}
for _, one in ipairs(conn:describe()) do names[#names + 1] = one.name end
check.equal(table.concat(names, ' '), 'calls connections eval eval_complete eval_interrupt eval_output fibers info '
  .. 'listeners log_level loops metrics trace wait_graph waits')

-- What runs.
local info = a.info()
check.equal(info.pid, endpoint.pid())
check.equal(info.version, yue.version)
check.equal(info.args, { 'one', 'two=2' })
check.equal(info.driver, yue.feature.driver)
check.equal(info.loops, 1)
check.equal(info.log_level, 'info')
check.contains(info.name, 'admin.lua')
check.that(math.abs(os.time() - info.start_time_seconds) < 600, 'it started a moment ago')

-- The loop. The endpoint's own is not the program's.
local loops = a.loops()
check.equal(#loops, 1)
local one = loops[1]
check.equal({ one.driver, one.answers, one.thread }, { yue.feature.driver, true, 'main' })
check.equal(one.blocked_seconds, nil)
check.that(one.fibers >= 2 and one.ticks > 0 and one.spawned >= one.fibers and one.panics == 0, check.show(one))
check.that(one.latency_seconds >= 0 and one.last_tick_seconds >= 0, check.show(one))
check.that(one.busy_seconds > 0 and one.age_seconds >= one.busy_seconds, check.show(one))

-- Fibers: page by page each is there once.
local started = {}
for i = 1, 700 do started[i] = yue.fiber(function() never:wait 'never' end):run() end
yue.yield()
local seen, count, pages, offset = {}, 0, 0, nil
repeat
  local page = a.fibers { limit = 100, offset = offset }
  check.that(#page.fibers <= 100)
  for _, fiber in ipairs(page.fibers) do
    local key = fiber.loop .. ' ' .. fiber.id
    check.that(not seen[key], key .. ' is there twice')
    seen[key] = fiber
    if (fiber.origin or ''):find 'admin.lua:%d+' then count = count + 1 end
  end
  check.equal(page.blocked, {})
  check.that(page.total > 700)
  offset, pages = page.next, pages + 1
until not offset
check.equal(count, 700)
check.that(pages >= 7)
check.equal(#a.fibers({ limit = 1000000 }).fibers <= 2000, true)
check.equal(a.fibers({ loop = 4711 }).fibers, {})
local with_stacks = a.fibers { stacks = true, limit = 1000, offset = ('%d:%d'):format(one.loop, 300) }
check.equal(#with_stacks.fibers, 50)
check.contains(with_stacks.fibers[1].stack, "C function 'park'")
check.contains(a.fibers({ native = true, limit = 1 }).fibers[1].stack, '.rs:')

-- They wait for the same thing.
local waits = a.waits()
check.equal(waits.blocked, {})
local group
for _, some in ipairs(waits.groups) do
  if (some.origin or ''):find 'admin.lua:%d+' then group = some end
end
check.equal({ group.count, group.state }, { 700, 'parked' })
check.that(group.longest_seconds >= 0 and group.waits_for ~= '')
for _, future in ipairs(started) do future:cancel() end

-- Connections and listeners.
local by_role = {}
for _, some in ipairs(a.connections().connections) do
  if some.address:find '^tcp' then by_role[some.role] = some end
end
local opened, accepted = by_role.opened, by_role.accepted
check.equal({ opened.state, opened.calls, opened.call_errors, opened.requests }, { 'up', 2, 1, 0 })
check.equal({ accepted.state, accepted.requests, accepted.request_errors }, { 'up', 2, 1 })
check.equal({ opened.address, accepted.listener }, { l:addr(), l:addr() })
check.equal(opened.sent_bytes, accepted.received_bytes)
check.that(opened.age_seconds > 0 and opened.queued_bytes == 0 and opened.calls_in_flight == 0)
local numbers, from = {}, nil
repeat
  local page = a.connections { limit = 1, offset = from }
  for _, some in ipairs(page.connections) do numbers[#numbers + 1] = some.number end
  from = page.next
until not from
check.equal(#numbers, 3)
local listening = a.listeners().listeners
check.equal(#listening, 1)
check.equal({ listening[1].address, listening[1].connections, listening[1].accepting }, { l:addr(), 1, true })

-- Counters.
local text = a.metrics()
check.contains(text, '\nyue_rpc_request_errors_total{role="accepted"} 1\n')
check.contains(text, '\nyue_rpc_call_errors_total{role="opened"} 1\n')
check.contains(text, '\nyue_rpc_listeners 2\n')
check.contains(yue.metrics.text(), '\n# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total ')

-- The level of the log.
check.equal(a.log_level(), 'info')
check.equal(a.log_level 'off', 'info')
yue.log.error 'nobody sees this'
check.equal(a.log_level 'info', 'off')
check.equal(a.info().log_level, 'info')

-- What is refused.
check.raises('ArgumentError', "'debug'", a.log_level, 'loud')
check.raises('ArgumentError', 'unknown field', a.fibers, { limt = 1 })
check.raises('ArgumentError', 'next', a.fibers, { offset = 'x' })
check.raises('ArgumentError', 'next', a.connections, { offset = '1' })
check.raises('ArgumentError', nil, a.fibers, { limit = -1 })
check.raises('ArgumentError', nil, a.waits, 1, 2, 3)
check.raises('NoMethodError', nil, function() a.reboot() end)
check.raises('NoMethodError', nil, function() a._info() end)

conn:close()
l:close()
check.done()
