-- The server of one behaviour over one transport, and the way to it.
--
--   endpoint.open([options [, symbols]])   the procedures of a new connection
--   endpoint.stop(), endpoint.start()      the server ends, and comes back at the same address
--   endpoint.address                       where clients connect
--   endpoint.has                           what is special about the transport
local suite = require 'suite'
local endpoints = {}

local function merged(first, second)
  local all = {}
  for _, options in ipairs { first or {}, second or {} } do
    for key, value in pairs(options) do all[key] = value end
  end
  return all
end

--- Makes a behaviour's server listen. Called where the server runs.
function endpoints.serve(behaviour, address, needed)
  local server = {}
  local symbols, options = behaviour.server(server)
  server.listener = yue.listen(address, merged(options, needed), symbols)
  return server.listener
end

local kinds = {}

function kinds.here(endpoint, behaviour, transport)
  function endpoint.start()
    endpoint.listener = endpoints.serve(behaviour, endpoint.address, transport.listen)
    endpoint.address = endpoint.listener:addr()
  end

  function endpoint.stop() endpoint.listener:close() end
end

function kinds.thread(endpoint, behaviour)
  local script = suite.folder .. '/lib/serve.lua'

  function endpoint.start()
    -- The name tells the thread what to serve, and where.
    local name = ('%s@%s'):format(behaviour.name, endpoint.address:match '^thread://(.*)$')
    endpoint.thread = yue.thread(name, script, { timeout = 60 }, nil)
  end

  function endpoint.stop() endpoint.thread:close() end
end

function kinds.child(endpoint, behaviour)
  local lowest = 0
  while arg[lowest - 1] do lowest = lowest - 1 end
  -- A connection starts it.
  function endpoint.start()
    endpoint.address = ("popen://exec '%s' --io %s '%s/lib/serve.lua' %s")
      :format(arg[lowest], yue.feature.driver, suite.folder, behaviour.name)
  end

  function endpoint.stop() end
end

--- The endpoint of a behaviour over a transport; its server listens.
function endpoints.new(behaviour, transport)
  local endpoint = { address = transport.address(), has = transport.has or {} }
  kinds[transport.server](endpoint, behaviour, transport)

  function endpoint.open(options, symbols)
    local all = merged(options, transport.open)
    if all.no_cache == nil and symbols == nil then all.no_cache = true end
    return yue.open(endpoint.address, all, symbols)
  end

  endpoint.start()
  return endpoint
end

return endpoints
