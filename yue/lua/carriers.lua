-- Carriers: from a target to what starts a node there.
--
-- A carrier is a command line whose standard input and output lead to `yue node`, or a thread of this process. A target
-- is data, or a function (a provider) that returns one.
local core, yue, internal = ...
local type, ipairs, tostring, error = type, ipairs, tostring, error

local function fail(text) internal.argument_error('yue.nalloc: ' .. text) end

local function allocation_error(text) error(yue.errors.AllocationError.new(text), 0) end

--- A provider may return another one, but not forever.
local PROVIDERS_MAX = 8

--- The carriers of addresses, by scheme: each takes the allocation, what stands behind `://`, and the target's table,
--- which is empty if the target is a text.
local schemes = {}

--- Checks of addresses, by scheme: each takes what stands behind `://` and the target's table.
local checks = {}

--- The fields of targets that are tables.
local fields = {
  command = true, -- the carrier itself, as words
  address = true,
  id = true, release = true, log = true, -- a provider's
  host_key = true, identity = true, config = true, -- ssh's
  key = true, -- an agent's
  arguments = true, -- further ones of docker or podman
}

--- Says once, per kind of carrier, that it does not enforce limits.
local warned = {}
function internal.warn_of_limits(allocation, where)
  local options = allocation.options
  if warned[where] or not (options.memory or options.cpu) then return end
  warned[where] = true
  internal.log('warn', ('%s: the options memory and cpu are not enforced %s'):format(allocation.name, where))
end

--- Starts the command for the allocation's next node.
local function carry_command(allocation, command, is_node)
  local options = allocation.options
  local words, variables, folder = internal.pack_command('nalloc', command, options.env, options.directory)
  if not is_node then internal.warn_of_limits(allocation, 'by a command') end
  core.nalloc_carry(
    allocation.number, words, variables, folder, is_node, allocation.memory or 0, options.cpu or 0)
end

internal.carry_command = carry_command

--- The words that start this program again.
function internal.own_words()
  local _, packed = core.nalloc_words()
  local words = {}
  for word in packed:gmatch('%z(%Z+)') do words[#words + 1] = word end
  return words
end

local function carry_local(allocation)
  local words = internal.own_words()
  words[#words + 1] = 'node'
  carry_command(allocation, words, true)
end

local threads = 0

local function carry_thread(allocation)
  internal.warn_of_limits(allocation, 'in a thread')
  threads = threads + 1
  core.nalloc_carry_thread(allocation.number, ('node-%d-%d-%d'):format(core.index, allocation.number, threads))
end

--- Parts of a text that begins like an address.
local function split(target)
  return target:match('^(%a[%w+.-]*)://(.*)$')
end

local function check_address(address, target)
  if address == 'local' or address == 'thread' then return end
  local scheme, rest = split(address)
  scheme = scheme or 'yue'
  if not schemes[scheme] then
    local known = {}
    for name in pairs(schemes) do known[#known + 1] = name .. '://' end
    table.sort(known)
    fail(("there is no carrier for '%s'; known are local, thread, %s and { command = … }"):format(
      address, table.concat(known, ', ')))
  end
  if checks[scheme] then checks[scheme](rest or address, target) end
end

--- Checks a target: returns the kind of its time limit, its name for messages, and whether it is a child.
function internal.check_target(target)
  if target == nil or target == 'local' then return 'here', 'this machine', true end
  if target == 'thread' then return 'here', 'a thread', true end
  if type(target) == 'function' then return 'machine', 'a provider', false end
  if type(target) == 'table' then
    if target.command ~= nil then
      if type(target.command) ~= 'table' or #target.command == 0 then
        fail("the command of a target is a list of words: { command = { 'ssh', 'host', 'yue', 'node' } }")
      end
      return 'host', internal.to_text(target.command[1]), false
    end
    if target.address == nil then fail('a target that is a table has a command or an address') end
    for field in pairs(target) do
      if not fields[field] then fail('a target has no field ' .. internal.to_text(field)) end
    end
    if type(target.address) == 'string' then check_address(target.address, target) end
    return 'machine', internal.to_text(target.address), false
  end
  if type(target) ~= 'string' then
    fail('a target is a text, a table or a function, not ' .. internal.describe_value(target))
  end
  check_address(target, {})
  return 'host', target, false
end

--- Chooses the carrier for the next node of the allocation.
function internal.carry(allocation, target)
  allocation.machine = nil
  for _ = 1, PROVIDERS_MAX do
    if type(target) == 'function' then
      local options = allocation.options
      target = target { id = allocation.name, cpu = options.cpu, memory = allocation.memory }
      if target == nil then allocation_error('the provider returned no target') end
      internal.check_target(target)
    elseif type(target) == 'table' and target.command == nil then
      allocation.machine, target = target, target.address
    else
      break
    end
  end
  if target == nil or target == 'local' then return carry_local(allocation) end
  if target == 'thread' then return carry_thread(allocation) end
  if type(target) == 'table' then return carry_command(allocation, target.command, false) end
  if type(target) ~= 'string' then
    allocation_error('the provider returned providers only, ' .. PROVIDERS_MAX .. ' times')
  end
  local scheme, rest = split(target)
  local carry = schemes[scheme or 'yue']
  if not carry then allocation_error(("there is no carrier for '%s'"):format(target)) end
  allocation.address = target
  carry(allocation, rest or target, allocation.machine or {})
end

-- -- Agents -----------------------------------------------------------------------------------------------------------

local function carry_agent(allocation, is_socket, place)
  local options, machine = allocation.options, allocation.machine
  -- A provider's answer may be a table with an address, or only an address.
  local key = machine and machine.address == allocation.address and machine.key or ''
  if type(key) ~= 'string' then fail('the key of a target is a text, as `yue agent --key` prints it') end
  local words, variables, folder = internal.pack_command('nalloc', { 'node' }, options.env, options.directory)
  core.nalloc_carry_agent(
    allocation.number, words, variables, folder, is_socket, place, key, allocation.library_name, options.cpu or 0,
    allocation.memory or 0, options.wait or 0, options.grace or 0
  )
end

--- `yue://host[:port]`, or an address without a scheme: an agent on the network.
function schemes.yue(allocation, place) carry_agent(allocation, false, place) end

--- `unix:///path`: an agent of the same user at a socket of this machine.
function schemes.unix(allocation, place) carry_agent(allocation, true, place) end

--- The address of an agent has no user. What stands before an @ may be a key, so it is not repeated.
function checks.yue(address)
  if address:find('@', 1, true) then
    fail("an agent's address has no key: `yue key trust ADDRESS` pins it, or a target { address = …, key = … }")
  end
end

internal.carrier_schemes = schemes
internal.target_checks = checks
