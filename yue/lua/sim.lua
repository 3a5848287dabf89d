-- Simulation: what a scenario does to the hosts of `yue sim`. Elsewhere the functions raise an error.
local core, yue, internal = ...
local type, tostring, ipairs, pcall, error, select = type, tostring, ipairs, pcall, error, select
local argument_error, describe_value = internal.argument_error, internal.describe_value

local sim = {}
yue.sim = sim
_G.package.loaded['yue.sim'] = sim

--- Raises unless `value` has that type.
local function check_type(what, value, expected)
  if type(value) ~= expected then
    argument_error(('%s is a %s, not %s'):format(what, expected, describe_value(value)))
  end
end

local function check_seconds(what, value)
  check_type(what, value, 'number')
  if not (value >= 0 and value < 1e9) then
    argument_error(what .. ' is a number of seconds, not ' .. tostring(value))
  end
end

local function check_host(what, name)
  check_type(what .. ': the name of a host', name, 'string')
  if not name:find '^[%w_.-]+$' then
    argument_error(("%s: '%s' cannot be a host's name: write letters, digits, '-', '_' and '.'"):format(what, name))
  end
end

-- -- Hosts -----------------------------------------------------------------------------------------------------------

local HOST = { name = true, code = true, args = true, loops = true, files = true }

local function check_host_options(options)
  for key in pairs(options) do
    if not HOST[key] then argument_error('sim.host: there is no option ' .. tostring(key)) end
  end
  local args, loops, files = options.args or {}, options.loops or 1, options.files
  check_type('sim.host: args', args, 'table')
  check_type('sim.host: loops', loops, 'number')
  if not (loops >= 1 and loops <= 1024 and loops % 1 == 0) then
    argument_error('sim.host: loops is a whole number from 1 to 1024, not ' .. tostring(loops))
  end
  if files ~= nil and type(files) ~= 'boolean' then
    check_type('sim.host: files', files, 'table')
    for path, text in pairs(files) do
      check_type('sim.host: the path of a file', path, 'string')
      check_type('sim.host: the contents of a file', text, 'string')
    end
  end
  return args, loops, files
end

--- Adds a host and starts it: `sim.host(name, code, ...)`, or `sim.host { name =, code =, args =, loops =, files = }`.
--- `code` is a file, beside the scenario or from the current folder, or a function without upvalues. The arguments are
--- those of the program, as text. The host's disk has the files beside its script, and those of `files` by their paths.
function sim.host(name, code, ...)
  local options = { args = { n = select('#', ...), ... } }
  if type(name) == 'table' then options, name, code = name, name.name, name.code end
  check_host('sim.host', name)
  local args, loops, files = check_host_options(options)
  local kind, text = internal.portable('the code of sim.host', code)
  local words = {}
  for i = 1, args.n or #args do
    words[i] = tostring(args[i])
    if words[i]:find '%z' then argument_error 'sim.host: an argument has a zero byte in it' end
  end
  -- A function has no folder of its own, unless the scenario says so.
  local beside = files == true or (files ~= false and kind == 'file')
  core.sim_host(name, kind, text, table.concat(words, '\0'), loops, beside and 1 or 0)
  if type(files) == 'table' then
    local paths = {}
    for path in pairs(files) do paths[#paths + 1] = path end
    table.sort(paths)
    for _, path in ipairs(paths) do core.sim_write_file(name, path, files[path]) end
  end
  core.sim_start(name)
end

--- Returns the address of a host, as text.
function sim.address(name)
  check_host('sim.address', name)
  return core.sim_address(name)
end

--- Whether the program of a host runs.
function sim.running(name)
  check_host('sim.running', name)
  return core.sim_running(name)
end

--- Lets the program of a host fail without failing the run.
function sim.may_fail(name)
  check_host('sim.may_fail', name)
  core.sim_may_fail(name)
end

--- Lets the programs of hosts that are added from now on make a call that leaves the simulation, such as `os.execute`.
function sim.allow(name)
  check_type('sim.allow: the name of a call', name, 'string')
  core.sim_allow(name)
end

-- -- Faults ----------------------------------------------------------------------------------------------------------

local function define(name, pattern, hosts)
  sim[name] = function(first, second)
    check_host('sim.' .. name, first)
    if hosts == 2 then check_host('sim.' .. name, second) end
    core.sim_fault(pattern:format(first, second))
  end
end

define('partition', 'partition %s %s', 2)
define('partition_one_way', 'partition %s -> %s', 2)
define('reset', 'reset %s %s', 2)
define('crash', 'crash %s', 1)
define('freeze', 'freeze %s', 1)
define('freeze_disk', 'freeze-disk %s', 1)

local function define_end(name, kind, hosts)
  sim[name] = function(first, second)
    check_host('sim.' .. name, first)
    if hosts == 2 then check_host('sim.' .. name, second) end
    core.sim_end(kind, first, second or '')
  end
end

define_end('heal', 'partition', 2)
define_end('restart', 'crash', 1)
define_end('thaw', 'freeze', 1)
define_end('thaw_disk', 'freeze-disk', 1)

--- Lets the faults of a schedule happen, which is text with a line for each, at their times since the beginning.
function sim.schedule(text)
  check_type('sim.schedule: the faults', text, 'string')
  core.sim_schedule(text)
end

local SECONDS, PROBABILITY = '%.9fs', '%.17g'

--- The properties of a link, and how a schedule's line writes them.
local LINK = {
  latency = SECONDS, jitter = SECONDS, loss = PROBABILITY, duplicate = PROBABILITY, reorder = PROBABILITY,
  bandwidth = '%d',
}

--- Writes properties as a schedule's line does: ` name=value` for each.
local function write_properties(what, properties, formats)
  check_type(what, properties, 'table')
  local words = {}
  for key, value in pairs(properties) do
    local format = formats[key]
    if not format then argument_error(('%s: there is no property %s'):format(what, tostring(key))) end
    check_type(what .. ': ' .. key, value, 'number')
    local most = format == PROBABILITY and 1 or 1e9
    if not (value >= 0 and value <= most) then
      argument_error(('%s: %s is a number from 0 to %d, not %s'):format(what, key, most, tostring(value)))
    end
    words[#words + 1] = (' %s=' .. format):format(key:gsub('_', '-'), value)
  end
  return table.concat(words)
end

--- Sets the link between two hosts; without properties, the one that they had in the beginning.
function sim.link(first, second, properties)
  check_host('sim.link', first)
  check_host('sim.link', second)
  if properties == nil then return core.sim_end('link', first, second) end
  core.sim_fault(('link %s %s%s'):format(first, second, write_properties('sim.link', properties, LINK)))
end

--- Sets the link between all hosts that have no link of their own.
function sim.default_link(properties)
  core.sim_default_link(write_properties('sim.default_link', properties or {}, LINK))
end

--- Defines a function that sets properties of a host; without them, those of the beginning.
local function define_properties(name, formats)
  sim[name] = function(host, properties)
    local what = 'sim.' .. name
    check_host(what, host)
    local text = properties == nil and '' or write_properties(what, properties, formats)
    core.sim_fault(('%s %s%s'):format(name:gsub('_', '-'), host, text))
  end
end

define_properties('network_faults', { socket = PROBABILITY, accept = PROBABILITY, send = PROBABILITY })
define_properties('disk_faults', {
  open = PROBABILITY, read = PROBABILITY, write = PROBABILITY, sync = PROBABILITY, inspect = PROBABILITY,
  change = PROBABILITY, no_space = PROBABILITY, short_read = PROBABILITY, short_write = PROBABILITY,
})
define_properties('disk_latency', { operation = SECONDS, jitter = SECONDS, sync = SECONDS })

--- Lets a host's clock run faster, or slower if `ppm` is negative, by that many millionths.
function sim.drift(name, ppm)
  check_host('sim.drift', name)
  check_type('sim.drift: ppm', ppm, 'number')
  if not (ppm >= -500000 and ppm <= 500000) then argument_error('sim.drift: ppm is at most 500000 either way') end
  core.sim_fault(('drift %s %dppm'):format(name, ppm))
end

--- Lets reads and writes of a host transfer fewer bytes than they could, with these probabilities.
function sim.short_transfers(name, read, write)
  check_host('sim.short_transfers', name)
  check_type('sim.short_transfers: read', read, 'number')
  if write == nil then write = read end
  check_type('sim.short_transfers: write', write, 'number')
  core.sim_fault(('short-transfers %s read=%.17g write=%.17g'):format(name, read, write))
end

--- Lets a host's wall clock jump by that many seconds, back if they are negative.
function sim.jump_clock(name, seconds)
  check_host('sim.jump_clock', name)
  check_type('sim.jump_clock: seconds', seconds, 'number')
  if not (seconds > -1e9 and seconds < 1e9) then argument_error('sim.jump_clock: seconds are ' .. tostring(seconds)) end
  core.sim_fault(('jump-clock %s %dms'):format(name, seconds * 1000))
end

-- -- Disks -----------------------------------------------------------------------------------------------------------

local function define_disk(name, kind, what)
  sim[name] = function(host, number)
    check_host('sim.' .. name, host)
    check_type('sim.' .. name .. ': ' .. what, number, 'number')
    if not (number >= 0 and number < 2 ^ 53) then
      argument_error(('sim.%s: %s is %s'):format(name, what, tostring(number)))
    end
    core.sim_host_number(kind, host, number)
  end
end

define_disk('disk_capacity', 'capacity', 'the number of bytes')
define_disk('fail_at', 'fail-at', 'the number of an operation')

--- Lets a host crash at the `nth` operation from now on its disk.
function sim.crash_at_operation(name, nth)
  check_host('sim.crash_at_operation', name)
  check_type('sim.crash_at_operation: the number of an operation', nth, 'number')
  core.sim_fault(('crash-at-operation %s %.17g'):format(name, nth))
end

--- Lets nothing more fit on a host's disk; with `full` false, there is space again.
function sim.disk_full(name, full)
  check_host('sim.disk_full', name)
  if full == false then return core.sim_end('disk-full', name, '') end
  core.sim_fault('disk-full ' .. name)
end

--- The number of operations that a host's disk has begun.
function sim.disk_operations(name)
  check_host('sim.disk_operations', name)
  return core.sim_disk_operations(name)
end

--- Returns the contents of the files of a host's disk by their paths: as programs see them, or with `durable` as a
--- crash would leave them at worst.
function sim.files(name, durable)
  check_host('sim.files', name)
  return core.sim_files(name, durable and 1 or 0)
end

--- Returns the contents of a file of a host's disk, or nil if there is none.
function sim.read_file(name, path)
  check_host('sim.read_file', name)
  check_type('sim.read_file: the path', path, 'string')
  return core.sim_read_file(name, path)
end

--- Puts a durable file on a host's disk.
function sim.write_file(name, path, text)
  check_host('sim.write_file', name)
  check_type('sim.write_file: the path', path, 'string')
  check_type('sim.write_file: the contents', text, 'string')
  core.sim_write_file(name, path, text)
end

-- -- Random faults ---------------------------------------------------------------------------------------------------

--- Plans random faults of a level from 1 to 5 for the hosts that there are. They end within `seconds` (30 by default).
function sim.chaos(level, options)
  check_type('sim.chaos: the level', level, 'number')
  if not (level >= 1 and level <= 5) then argument_error 'sim.chaos: the level is a number from 1 to 5' end
  options = options or {}
  check_type('sim.chaos: the options', options, 'table')
  for key in pairs(options) do
    if key ~= 'seconds' and key ~= 'hosts' then argument_error('sim.chaos: there is no option ' .. tostring(key)) end
  end
  local seconds, hosts = options.seconds or 30, options.hosts or {}
  check_seconds('sim.chaos: seconds', seconds)
  check_type('sim.chaos: hosts', hosts, 'table')
  for _, name in ipairs(hosts) do check_host('sim.chaos', name) end
  core.sim_chaos(level, seconds, table.concat(hosts, '\0'))
end

-- -- Time, choices, the trace ----------------------------------------------------------------------------------------

--- The virtual time since the beginning of the run, in seconds.
function sim.now()
  return core.sim_now()
end

--- A choice of the seed: a number from 0 to 1, or a whole one from 1 to `low`, or from `low` to `high`.
function sim.random(low, high)
  local number = core.sim_random()
  if low == nil then return number end
  if high == nil then low, high = 1, low end
  check_type('sim.random: the lowest number', low, 'number')
  check_type('sim.random: the highest number', high, 'number')
  if low > high then argument_error('sim.random: there is no number from ' .. low .. ' to ' .. high) end
  return low + math.floor(number * (high - low + 1))
end

--- Writes a line into the trace.
function sim.note(text)
  core.sim_note(tostring(text))
end

--- The number of functions that `sim.at` and `sim.eventually` have planned.
local planned = 0
local nothing_planned = yue.event()
--- Set when the run ends. Then what is planned is cancelled, and has not failed.
local ends = false

--- Runs `work` in a fiber. The scenario does not end before it has returned, and fails if it raises.
local function plan(what, work)
  core.sim_check()
  planned = planned + 1
  yue.spawn(function()
    local ok, failure = pcall(work)
    planned = planned - 1
    if planned == 0 then nothing_planned:set() end
    if not ok and not ends then core.sim_fail(what .. ': ' .. tostring(failure)) end
  end)
end

--- Calls `fn` when the run has lasted that many seconds; at once if it has.
function sim.at(seconds, fn)
  check_seconds('sim.at', seconds)
  check_type('sim.at: the second argument', fn, 'function')
  plan('sim.at', function()
    local left = seconds - core.sim_now()
    if left > 0 then yue.sleep(left) end
    fn()
  end)
end

-- -- Invariants ------------------------------------------------------------------------------------------------------

local always = {}

--- Checks that `fn` returns a true value whenever the scenario's state may have changed. `fn` must not wait.
function sim.always(name, fn)
  check_type('sim.always: the name of an invariant', name, 'string')
  check_type('sim.always: the second argument', fn, 'function')
  core.sim_check()
  always[#always + 1] = { name, fn }
end

--- Called between the scenario's fibers, outside all of them.
function internal.check_invariants()
  for _, one in ipairs(always) do
    local name, fn = one[1], one[2]
    local ok, holds = pcall(fn)
    if not ok then
      always = {}
      local text = "the function of sim.always '%s' failed (it must not wait): %s"
      return core.sim_fail(text:format(name, tostring(holds)))
    end
    if not holds then
      always = {}
      return core.sim_broken(name)
    end
  end
end

--- The time between two attempts.
local ATTEMPTS_S = 0.1

--- Checks that `fn` returns a true value at some time within `seconds`. It is called ten times a second, may wait, and
--- an error counts as false.
function sim.eventually(name, seconds, fn)
  check_type('sim.eventually: the name of an invariant', name, 'string')
  check_seconds('sim.eventually', seconds)
  check_type('sim.eventually: the third argument', fn, 'function')
  plan('sim.eventually', function()
    local last = core.sim_now() + seconds
    while true do
      local left = last - core.sim_now()
      local ok, holds = pcall(yue.timeout, math.max(left, ATTEMPTS_S), fn)
      if ok and holds then return end
      if core.sim_now() >= last then
        if not ok then
          internal.log('warn', ("the function of sim.eventually '%s' failed when it was last called: %s"):format(
            name, internal.to_text(holds)))
        end
        return core.sim_broken(name)
      end
      yue.sleep(math.max(math.min(ATTEMPTS_S, last - core.sim_now()), 0.000001))
    end
  end)
end

-- -- The end ---------------------------------------------------------------------------------------------------------

--- Ends the run. Without it, the run ends when the script has returned and all that is planned has happened.
function sim.stop()
  core.sim_check()
  ends = true
  core.die(0)
end

--- Waits for all that is planned, and ends the run. It is called after the script.
function sim.finish()
  core.sim_check()
  while planned > 0 do
    nothing_planned:reset()
    nothing_planned:wait()
  end
  ends = true
  core.die(0)
end
