-- `yue.nalloc`: allocates a machine for a library, as memory is allocated, and returns the library's procedures.
--
--   nalloc ──▶ core.nalloc_open: a session whose connector starts nodes     carriers.lua: from a target to a command
--          ──▶ a first call, which is held until the node has loaded the library, or fails with the stage
local core, yue, internal = ...
local type, pairs, ipairs, pcall, error, tostring = type, pairs, ipairs, pcall, error, tostring

-- The name under which the owner closes a node, which then has time to finish.
local RELEASED = 'released'

-- -- Arguments --------------------------------------------------------------------------------------------------------

--- Options, and the type of each.
local OPTIONS = {
  timeout = 'number', -- of the whole allocation
  lease = 'number', -- how long a node lives without hearing from its owner
  grace = 'seconds', -- between the notice that the owner is gone and the end
  restart = 'restart', -- 'now', 'call' or false
  init = 'function', -- called with the procedures after every allocation, before other calls
  env = 'table',
  directory = 'string',
  cpu = 'number', -- cores
  memory = 'size', -- bytes, or '512M'
  output = 'output', -- function(line), or false; the log by default
  files = 'list', -- what yue.file may fetch
  wait = 'seconds', -- in the queue of a target that is full
  symbols = 'symbols', -- what the node may call on us
}

local TIMEOUTS = { here = 5, host = 30, machine = 300 }
local LEASE = 10

local function fail(text) internal.argument_error('yue.nalloc: ' .. text) end

local SIZES = { k = 2 ^ 10, m = 2 ^ 20, g = 2 ^ 30, t = 2 ^ 40 }

--- The bytes of '512M', '2G' or a number.
local function bytes_of(size)
  if type(size) == 'number' then return size >= 1 and size or nil end
  if type(size) ~= 'string' then return nil end
  local digits, unit = size:match('^(%d+%.?%d*)([kKmMgGtT]?)i?[bB]?$')
  return digits and math.floor(tonumber(digits) * (SIZES[unit:lower()] or 1))
end

local CHECKS = {
  number = { 'a number above 0', function(v) return type(v) == 'number' and v > 0 end },
  seconds = { 'a number of seconds', function(v) return type(v) == 'number' and v >= 0 end },
  restart = { "'now', 'call' or false", function(v) return v == 'now' or v == 'call' or v == false end },
  ['function'] = { 'a function', function(v) return type(v) == 'function' end },
  table = { 'a table', function(v) return type(v) == 'table' end },
  string = { 'a text', function(v) return type(v) == 'string' and v ~= '' end },
  size = { "a number of bytes, or a text such as '512M'", bytes_of },
  output = { 'a function, or false', function(v) return v == false or type(v) == 'function' end },
  symbols = { 'a table of functions or a file', function(v) return type(v) == 'table' or type(v) == 'string' end },
  list = {
    "a list of names such as 'map.bin' or 'assets/*'",
    function(v)
      if type(v) ~= 'table' then return false end
      for _, name in pairs(v) do
        if type(name) ~= 'string' then return false end
      end
      return true
    end,
  },
}

local function check_options(options)
  for key, value in pairs(options) do
    local kind = OPTIONS[key]
    if not kind then fail('there is no option ' .. tostring(key)) end
    local check = CHECKS[kind]
    if not check[2](value) then
      local given = type(value) == 'string' and ('%q'):format(value) or internal.describe_value(value)
      fail(('the option %s is %s, not %s'):format(key, check[1], given))
    end
  end
  return options
end

--- Distinguishes (library), (library, options), (target, library) and (target, library, options).
local function arguments(count, first, second, third)
  if count > 3 then fail('it takes a target, a library and options') end
  if count == 3 or (count == 2 and type(second) ~= 'table') then
    if third ~= nil and type(third) ~= 'table' then
      fail('options are a table, not ' .. internal.describe_value(third))
    end
    return first, second, third or {}
  end
  return nil, first, second or {}
end

--- The name of the library, and its code: the text of a file, or bytecode of a function.
local function read_library(library)
  if type(library) == 'function' then
    local _, code = internal.portable('the library', library)
    local info = debug.getinfo(library, 'S')
    return ('%s:%d'):format(info.short_src:match('[^/]*$'), info.linedefined), { code = code }, '.'
  end
  if type(library) ~= 'string' then
    fail('the library is a file, or a function without upvalues, not ' .. internal.describe_value(library))
  end
  local facts = yue.fs.stat(library)
  if not facts then fail(("cannot read the library '%s': there is no such file"):format(library)) end
  if facts.kind ~= 'file' then
    fail(("cannot read the library '%s': it is not a file, but a %s"):format(library, facts.kind))
  end
  local text = yue.fs.read(library)
  if text:sub(1, 1) == '\27' then return library, { code = text }, library:match('^(.*)/') or '.' end
  return library:match('[^/]+$'), { text = text, path = library }, library:match('^(.*)/') or '.'
end

-- -- What a node may ask ----------------------------------------------------------------------------------------------

local SOURCE_MAX, CHUNK = 2 ^ 24, 2 ^ 20

--- Finds a module by the owner's `package.path`: returns its text and its path, or nil and where it was looked for.
local function find_source(name)
  if type(name) ~= 'string' or #name > 200 then return nil, 'a module has a name' end
  for segment in (name .. '.'):gmatch('([^.]*)%.') do
    if not segment:find('^[%w_-]+$') then return nil, ("the owner gives no module of the name '%s'"):format(name) end
  end
  local path, tried = name:gsub('%.', '/'), {}
  for pattern in package.path:gmatch('[^;]+') do
    local before, after = pattern:match('^([^?]*)%?([^?]*)$')
    if before and after:find('%.lua$') then
      local root, start = before:match('^(.*)/([^/]*)$')
      if not root then root, start = '.', before end
      if root == '' then root = '/' end
      local relative = start .. path .. after
      local text, size = core.read_beneath(root, relative, 0, SOURCE_MAX)
      if text and size <= SOURCE_MAX then return text, root .. '/' .. relative end
      tried[#tried + 1] = "no file '" .. root .. '/' .. relative .. "' at the owner"
    end
  end
  return nil, table.concat(tried, '\n\t')
end

--- Whether the name is one of those that the option `files` lists.
local function is_listed(files, name)
  for _, pattern in ipairs(files) do
    local escaped = pattern:gsub('[%^%$%(%)%%%.%[%]%+%-%?]', '%%%0'):gsub('%*', '[^/]*')
    if name:find('^' .. escaped .. '$') then return true end
  end
  return false
end

--- The functions that only the node of this allocation may call.
local function node_requests(allocation)
  local sources = {} -- the first answer for each name, so that an edit in mid-load cannot mix versions
  local function give(name)
    local known = sources[name]
    if not known then
      known = { find_source(name) }
      sources[name] = known
      if known[1] then
        allocation.version = yue.crypto.hex(yue.crypto.sha256(allocation.version .. known[1]))
        local node = allocation.node
        if node then node.version = allocation.version end
        internal.log('debug', ('%s: sent the module %s (%s)'):format(allocation.name, name, known[2]))
      end
    end
    return known[1], known[2]
  end
  --- Reads from a listed file: returns the bytes and the size, or nil and a message.
  local function read_listed(name, offset, max)
    if type(name) ~= 'string' or not is_listed(allocation.options.files or {}, name) then
      return nil, ("the owner's option `files` does not list '%s'"):format(internal.to_text(name))
    end
    local bytes, size = core.read_beneath(allocation.folder, name, offset, max)
    if not bytes then return nil, ("the owner has no file '%s'"):format(name) end
    return bytes, size
  end
  return {
    ['$yue/node/job'] = function(facts)
      if type(facts) ~= 'table' then error(yue.errors.ArgumentError.new('a node says who it is'), 0) end
      sources = {}
      local epoch = core.nalloc_epoch(allocation.number)
      allocation.version = allocation.library_version
      allocation.node = {
        id = allocation.number, target = allocation.target_name, epoch = epoch, started = yue.time(),
        host = internal.to_text(facts.host), pid = tonumber(facts.pid), version = allocation.version,
      }
      local job = {
        lease = allocation.lease, grace = allocation.options.grace or 0,
        is_local = allocation.is_local, id = allocation.number, target = allocation.target_name, epoch = epoch,
        started = allocation.node.started,
      }
      for key, value in pairs(allocation.code) do job[key] = value end
      return job
    end,
    ['$yue/node/source'] = give,
    ['$yue/node/file'] = function(name)
      -- A node on this machine reads the file itself.
      local bytes, size = read_listed(name, 0, allocation.is_local and 0 or CHUNK)
      if not bytes then return nil, size end
      local hashes, offset = {}, 0
      while bytes and bytes ~= '' do
        hashes[#hashes + 1] = yue.crypto.sha256(bytes)
        offset = offset + #bytes
        bytes = core.read_beneath(allocation.folder, name, offset, CHUNK)
      end
      local path = allocation.folder .. '/' .. name
      if path:sub(1, 1) ~= '/' then path = allocation.started_in .. '/' .. path end
      return { size = size, path = path, hash = yue.crypto.hex(yue.crypto.sha256(table.concat(hashes))) }
    end,
    ['$yue/node/chunk'] = function(name, offset)
      local bytes, message = read_listed(name, tonumber(offset) or 0, CHUNK)
      if not bytes then return nil, message end
      return bytes
    end,
  }
end

-- -- The allocation ---------------------------------------------------------------------------------------------------

-- By number, while their connections exist.
local allocations = setmetatable({}, { __mode = 'v' })

--- Called by the connector, in a fiber, for each node: chooses the carrier.
function internal.prepare_node(number)
  local allocation = allocations[number]
  if not allocation then error(yue.errors.ConnectionLostError.new('the allocation was closed'), 0) end
  internal.carry(allocation, allocation.target)
end

--- The error of an allocation that failed: the stage, and the last lines of the machine.
local function allocation_error(allocation, e)
  local cause = internal.is_error(e) and e.msg or internal.to_text(e)
  if internal.is_error(e) and e.type == 'TimeoutError' then
    cause = ('it took longer than %g s'):format(allocation.timeout)
  end
  local ok, text, stage = pcall(core.nalloc_failure, allocation.number, cause)
  local failure = yue.errors.AllocationError.new(ok and text or cause)
  failure.stage = ok and stage or nil
  return failure
end

--- The callbacks of the connection that come before the program's own.
local function callbacks(allocation, symbols)
  local own = type(symbols) == 'table' and symbols or {}
  local requests = node_requests(allocation)
  function requests.__accept(connection, result)
    if type(result) ~= 'table' or result.ok ~= true then
      allocation.failure = type(result) == 'table' and result.msg
        and internal.make_error(result.type, result.msg, result.code, result.bt)
        or yue.errors.AllocationError.new('the node did not load the library')
      if allocation.started then
        internal.log('error', ('%s: the next node could not load the library: %s'):format(
          allocation.name, internal.report(allocation.failure)))
      end
      return false
    end
    allocation.started, allocation.quiet = true, false
    allocation.failure = nil
    connection.node = allocation.node
    core.nalloc_ready(allocation.number)
    if allocation.options.init then allocation.options.init(connection.procs) end
    if own.__accept then return own.__accept(connection, true) end
    return true
  end
  --- Whether another node follows at once.
  function requests.__close(connection, reason)
    allocation.quiet = true
    local again
    if own.__close then again = own.__close(connection, reason) end
    if again ~= nil then return again end
    local restart = allocation.options.restart
    if restart == 'now' then return true end
    -- A call may have come since the link ended. A library that failed would fail again.
    return restart == 'call' and not allocation.failure and core.nalloc_holds(connection._id)
  end
  return requests
end

--- Passes the lines that wait to the program's function.
function internal.pass_node_lines(number)
  local allocation = allocations[number]
  if not allocation then return end
  for line in function() return core.nalloc_line(number) end do
    local ok, e = pcall(allocation.options.output, line)
    if not ok then internal.log_failure('error', 'the function for the output of a node failed', e) end
  end
end

local function output_word(options)
  if options.output == nil then return 'log' end
  return options.output and 'function' or 'nowhere'
end

function yue.nalloc(...)
  local target, library, options = arguments(select('#', ...), ...)
  check_options(options)
  local name, code, folder = read_library(library)
  local kind, target_name, is_local = internal.check_target(target)
  local allocation = {
    target = target, target_name = target_name, is_local = is_local, options = options, code = code, folder = folder,
    library_name = name, library_version = yue.crypto.hex(yue.crypto.sha256(code.text or code.code)),
    timeout = options.timeout or TIMEOUTS[kind] + (options.wait or 0), lease = options.lease or LEASE,
    started_in = core.current_folder(),
    memory = options.memory and bytes_of(options.memory),
  }
  -- The last layer is looked at first.
  local namespace = internal.new_namespace { options.symbols or {}, callbacks(allocation, options.symbols) }
  namespace.is_opened = true
  local id, number = core.nalloc_open(
    target_name, {}, namespace.layers, name, allocation.timeout, allocation.lease,
    options.restart or 'never', output_word(options)
  )
  allocation.number, allocation.name = number, ('%s#%d'):format(name, number)
  allocations[number] = allocation
  local connection = internal.connection_of(id, namespace)
  connection._allocation = allocation
  internal.guard_collection(connection, function()
    if not allocation.quiet then
      core.warn_later(('%s was released: nothing refers to it any more; keep the result of yue.nalloc to keep the node')
        :format(allocation.name))
    end
    core.close_later(id)
  end)
  local started = connection.procs['=$yue/node/started']
  local ok, e = pcall(core.call_timed, started, allocation.timeout)
  if not ok then
    local failure = allocation.failure or allocation_error(allocation, e)
    connection:close()
    if internal.is_error(e) and (e.type == 'CancelledError' or e.type == 'ServerBusyError') then error(e, 0) end
    error(failure, 0)
  end
  internal.adopt_current(connection)
  return connection.procs
end

local close = internal.Connection.close

--- Closing the connection of a node releases the node.
function internal.Connection:close(reason)
  local allocation = self._allocation
  if not allocation then return close(self, reason) end
  if self.closed then return end
  allocation.quiet = true
  core.nalloc_close(allocation.number)
  close(self, reason == nil and RELEASED or reason)
end

if not yue.file then
  --- The path of a file that a library reads: at the owner it is the file itself, in a node a copy.
  function yue.file(name)
    if type(name) ~= 'string' then
      internal.argument_error('yue.file takes the name of a file, not ' .. internal.describe_value(name))
    end
    return name
  end
end
