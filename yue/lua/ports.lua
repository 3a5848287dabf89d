-- A listener's port: the protocols that share it, who may call by HTTP, and certificates that are renewed.
local core, yue, internal = ...
local type, pairs, next, pcall, table = type, pairs, next, pcall, table

--- The fault in the option `http`; nil if there is none.
function internal.http_fault(value)
  if type(value) ~= 'table' then
    return 'a table { rpc = function(request) … end, origins = { … } }, not ' .. internal.describe_value(value)
  end
  for key, part in pairs(value) do
    if key == 'rpc' then
      if type(part) ~= 'function' then
        return 'a table whose rpc is a function, not ' .. internal.describe_value(part)
      end
    elseif key == 'origins' then
      local fault = internal.option_fault('origins', part)
      if fault then return 'a table whose origins are ' .. fault end
    else
      return 'a table { rpc = function(request) … end, origins = { … } }, without ' .. internal.to_text(key)
    end
  end
  return nil
end

local function lines(list)
  return list and table.concat(list, '\n')
end

--- The protocols of a listener's port, for the native side.
function internal.ports_of(options)
  local http = options.http
  return {
    ws = options.ws,
    origins = lines(options.origins),
    http = http ~= nil,
    http_rpc = http and http.rpc ~= nil,
    http_origins = http and lines(http.origins),
  }
end

-- -- Calls by HTTP ---------------------------------------------------------------------------------------------------

-- The functions that grant requests, by the number of the listener's service.
local grants = {}

--- Called by the HTTP side, in the fiber of a connection: whether the request may call.
function internal.grant_http(service, request)
  local grant = grants[service]
  if not grant then return false end
  local granted = grant(request)
  -- Another true value may be a mistake, such as a text that says why not.
  if type(granted) ~= 'boolean' and granted ~= nil then
    internal.argument_error('http.rpc returns true or false, not ' .. internal.describe_value(granted))
  end
  return granted == true
end

-- -- Certificates at SIGHUP ------------------------------------------------------------------------------------------

-- Listeners whose certificates are in files; and the subscription, while there are any.
local renewable, subscription = {}, nil

local function is_file(value)
  return value and not value:find('-----BEGIN', 1, true)
end

--- Rereads the certificates at each signal, unless the program handles SIGHUP itself.
local function run_hangups(id)
  while core.signal_wait(id) do
    if not internal.handles_hangup() then
      for listener in pairs(renewable) do
        -- A fault is logged, and the old certificate stays.
        pcall(listener.reload, listener)
      end
    end
  end
end

local function watch_hangups()
  -- A process that was started with it ignored, as by nohup, keeps ignoring it.
  if subscription or core.is_signal_ignored(yue.const.SIGHUP) then return end
  subscription = core.signal_open(yue.const.SIGHUP)
  local fiber = yue.fiber(run_hangups, 'certificates')
  fiber.quiet, fiber.own = true, 'waits'
  fiber:run(subscription)
end

--- A listener with a certificate begins.
function internal.begin_certificates(listener, options)
  if is_file(options.cert) or is_file(options.key) or is_file(options.client_ca) then
    renewable[listener] = true
    watch_hangups()
  end
end

function internal.end_certificates(listener)
  renewable[listener] = nil
  if subscription and next(renewable) == nil then
    core.signal_close(subscription)
    subscription = nil
  end
end

--- A listener begins.
function internal.begin_ports(listener, options)
  grants[listener.service] = options.http and options.http.rpc
  internal.begin_certificates(listener, options)
end

--- A listener ends.
function internal.end_ports(listener)
  grants[listener.service] = nil
  internal.end_certificates(listener)
end
