-- The program: arguments, its end, and `yue.client`.
local core, yue, internal = ...
local setmetatable, type, error, xpcall, tostring = setmetatable, type, error, xpcall, tostring
local wrap = internal.wrap

-- -- Arguments and facts -------------------------------------------------------------------------------------------

yue.args = {}
for _, argument in ipairs(core.args) do
  local key, value = argument:match('^([%a_][%w_]*)=(.*)$')
  if key then
    yue.args[key] = value
  else
    yue.args[#yue.args + 1] = argument
  end
end
yue.args[0] = core.script

-- As `lua` sets it: the script's name at 0, its arguments from 1 on, the command's words before it at negative indexes.
local arg = { [0] = core.script }
for i, word in ipairs(core.args) do arg[i] = word end
for i, word in ipairs(core.command) do arg[i - #core.command - 1] = word end
_G.arg = arg

yue.mode = core.role
yue.feature = { driver = core.driver, timer = 'wheel', os = jit.os, arch = jit.arch, jit = (jit.status()),
  development = core.development_script ~= nil }
yue.version = core.version
-- -- The end -------------------------------------------------------------------------------------------------------

--- Ends the program gracefully: prints `msg` to standard error, after a delay of `shutdown_after` seconds.
function yue.die(options)
  options = options or {}
  if type(options) ~= 'table' then
    internal.argument_error('yue.die takes a table: yue.die{ msg = …, shutdown_after = … }')
  end
  for key in pairs(options) do
    if key ~= 'msg' and key ~= 'shutdown_after' then
      internal.argument_error(('yue.die has no option %s, only msg and shutdown_after'):format(tostring(key)))
    end
  end
  local delay = options.shutdown_after
  if delay ~= nil then internal.check_seconds('yue.die: shutdown_after', delay) end
  if options.msg ~= nil then internal.log('info', 'the program ends: ' .. tostring(options.msg)) end
  core.die(delay or 0)
end

-- -- Clients: programs in the program --------------------------------------------------------------------------------

--- Records that a fiber belongs to a client.
function internal.adopt(scope, fiber)
  scope.fibers[fiber] = true
end

--- Records that a resource, which has a `close` method, belongs to the calling fiber's client, if it has one.
function internal.adopt_current(resource)
  local scope = internal.current().scope
  if scope then
    resource.scope = scope
    scope.opened = scope.opened + 1
    scope.resources[resource] = scope.opened
  end
end

--- Removes the resource from its client.
function internal.disown(resource)
  resource.scope.resources[resource] = nil
  resource.scope = nil
end

local Client = {}
Client.__index = Client
Client.__tostring = function(self) return self.ended and 'client (ended)' or 'client' end

--- Ends the client from anywhere: `yue.client` returns `ok, result`. The client's waits are cancelled. Does not return:
--- it raises an error that ends the calling fiber without being a failure.
function Client:exit(ok, result)
  if not self.ended then
    self.ended, self.ok, self.result = true, ok, result
    if self.wait then
      core.wake(self.wait)
    elseif self.guard then
      core.cancel_scope(self.guard.scope)
    end
  end
  error(internal.new_exit('the client has ended'), 0)
end

local function close_all(client)
  local resources = {}
  for resource in pairs(client.resources) do resources[#resources + 1] = resource end
  table.sort(resources, function(a, b) return client.resources[a] > client.resources[b] end)
  for _, resource in ipairs(resources) do
    local ok, e = xpcall(resource.close, wrap, resource)
    if not ok then internal.log_failure('warn', 'closing what a client opened', e) end
  end
  for fiber in pairs(client.fibers) do
    if fiber ~= client.fiber and not fiber:done() then
      fiber.quiet = true
      fiber:cancel()
    end
  end
end

--- Called when a fiber of the client has failed and nobody waits for it. That ends the client, unless somebody asks for
--- its result before the client's function has returned. Of several such fibers the first is kept.
function internal.fiber_failed(client, fiber)
  if client.ended then return end
  if not client.failed or not client.failed.sentinel then client.failed = fiber end
  if client.wait then core.wake(client.wait) end
end

local function raise_failure(client)
  local e = client.failed and internal.take_unseen(client.failed)
  if e then error(e, 0) end
end

local function run_client(client, fn)
  client.guard = client.fiber.guard
  local result = fn(client)
  if result and not client.ended then
    client.ended, client.ok, client.result = true, true, result
  end
  while not client.ended do
    raise_failure(client)
    client.wait = core.prepare()
    internal.park(client.wait, 'client')
  end
end

--- A copy of a Lua function that shares its upvalues, and has its own globals.
local function with_own_globals(fn)
  if type(fn) ~= 'function' then return fn end
  local environment = setmetatable({}, { __index = getfenv(fn) })
  local dumped, bytecode = pcall(string.dump, fn)
  if not dumped then return fn end -- a native function sets none
  local copy = loadstring(bytecode)
  for i = 1, debug.getinfo(fn, 'u').nups do debug.upvaluejoin(copy, i, fn, i) end
  return setfenv(copy, environment)
end

local function load_client(code)
  if type(code) ~= 'string' and internal.is_callable(code) then return code end
  if type(code) ~= 'string' then
    internal.argument_error('yue.client takes a function or a file name, not ' .. internal.describe_value(code))
  end
  local chunk, message = loadfile(code)
  if not chunk then error(yue.errors.ArgumentError.new('cannot load the client: ' .. message), 0) end
  return chunk
end

--- Runs `fn(client)` and waits until it returns a true value, raises, or `client:exit(ok, result)` is called; closes
--- everything that it opened. Returns `ok, result`. Globals that `fn` sets stay inside.
function yue.client(code)
  local fn = with_own_globals(load_client(code))
  local fiber = internal.current()
  local client = setmetatable({
    resources = {},
    opened = 0,
    fibers = setmetatable({}, { __mode = 'k' }),
    fiber = fiber,
  }, Client)
  local outer = fiber.scope
  fiber.scope = client
  local ok, e = internal.guarded(run_client, client, fn)
  fiber.scope = outer
  core.shield(close_all, client)
  if not ok and not client.ended then return false, e end
  return client.ok, client.result
end

--- Called at the program's end.
function internal.at_end()
  internal.log_unseen()
end
