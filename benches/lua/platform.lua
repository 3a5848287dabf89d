-- The functions that the benchmark scripts need from a runtime, for yue and for Tarantool, so that one script does the
-- same work on both. Settings come from environment variables, which both can read.

local ffi = require 'ffi'
ffi.cdef [[ int figures_clock(int clock, int64_t *time) __asm__("clock_gettime"); ]]

local platform = {}

-- Returns seconds of the monotonic clock, read on each call (a runtime's clock may show the start of its turn).
local time = ffi.new 'int64_t[2]'
function platform.now()
  ffi.C.figures_clock(1, time)
  return tonumber(time[0]) + tonumber(time[1]) / 1e9
end

function platform.setting(name, default)
  return tonumber(os.getenv(name)) or default or error('no setting ' .. name)
end

function platform.say(...)
  io.stdout:write(table.concat({ ... }, ' '), '\n')
  io.stdout:flush()
end

local tarantool = rawget(_G, '_TARANTOOL')

if tarantool then
  local fiber = require 'fiber'
  platform.yield = fiber.yield
  platform.sleep = fiber.sleep

  function platform.spawn(fn, ...)
    local new = fiber.new(fn, ...)
    new:set_joinable(true)
    return new
  end

  function platform.join(new)
    local ok, result = new:join()
    return ok and result or error(result)
  end

  -- Opens a new connection and returns a function that calls `echo` through it.
  function platform.connect(port)
    local connection = require('net.box').connect('127.0.0.1:' .. port)
    return function(value)
      return connection:call('echo', { value })
    end
  end

  function platform.serve(port, echo)
    rawset(_G, 'echo', echo)
    box.cfg {
      listen = '127.0.0.1:' .. port,
      wal_mode = 'none',
      log_level = 1,
      net_msg_max = 100000,
      readahead = 1048576,
    }
    box.schema.user.grant('guest', 'super')
    return port
  end
else
  local yue = require 'yue'
  platform.yield = yue.yield
  platform.sleep = yue.sleep
  platform.spawn = yue.spawn

  function platform.join(future)
    return future:get()
  end

  -- `port` may be a whole address.
  function platform.connect(port)
    local address = port:find('://', 1, true) and port or 'tcp://127.0.0.1:' .. port
    return yue.open(address, { no_cache = true, ca = os.getenv 'CERT' }, {}).echo
  end

  -- Returns the port, or the whole address if the setting ADDRESS says where to listen.
  function platform.serve(_, echo)
    local address = os.getenv 'ADDRESS'
    local options = { cert = os.getenv 'CERT', key = os.getenv 'KEY' }
    platform.listener = yue.listen(address or 'tcp://127.0.0.1:0', options, { echo = echo })
    local bound = tostring(platform.listener:addr())
    return address and bound or bound:match ':(%d+)$'
  end
end

return platform
