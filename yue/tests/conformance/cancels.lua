-- With `cancel = true` a timeout and a cancel reach the handler, and the calls that it makes.
local check = require 'check'
return {
  needs = { 'connection' },
  server = function()
    local ended = {}
    local function blocks(name, ...)
      yue.peer().procs.started(name)
      local ok, e = pcall(...)
      ended[name] = ok and 'done' or e.type
      if not ok then error(e, 0) end
    end
    return {
      block = function(name) blocks(name, yue.sleep, 60) end,
      relay = function(name)
        local ok, e = pcall(yue.peer().procs.timed_block, 60, name)
        ended[name] = ok and 'done' or e.type
      end,
      finally = function(name)
        yue.try {
          function() yue.peer().procs.started(name) yue.sleep(60) end,
          finally = function() yue.sleep(0.005) ended[name] = 'tidy' end,
        }
      end,
      ended = function(name) return ended[name] end,
    }, { cancel = true }
  end,
  client = function(endpoint)
    local started, stopped = {}, nil
    local c = endpoint.open({ cancel = true }, {
      started = function(name) started[name] = true end,
      block = function(name)
        started[name] = true
        local ok, e = pcall(yue.sleep, 60)
        stopped = not ok and e.type
      end,
    })
    local function starts(name) check.eventually(function() return started[name] end, name .. ' does not start') end
    local function ends(name, first, second)
      local how = check.eventually(function() return c.ended(name) end, name .. ' still waits')
      check.that(how == first or how == second, ('%s ended with %s'):format(name, how))
    end
    -- On a machine that is busy the time may be over before the handler has started.
    local seconds = 0.05
    repeat
      check.raises('TimeoutError', nil, c.timed_block, seconds, 'timed')
      seconds = seconds * 2
    until started.timed
    ends('timed', 'TimeoutError', 'CancelledError')
    local future = c.async_block 'future'
    starts 'future'
    future:cancel()
    ends('future', 'CancelledError')
    local fiber = yue.spawn(c.block, 'fiber')
    starts 'fiber'
    fiber:cancel()
    ends('fiber', 'CancelledError')
    fiber:sync()
    future = c.async_relay 'relayed'
    starts 'relayed'
    future:cancel()
    ends('relayed', 'CancelledError')
    check.eventually(function() return stopped == 'CancelledError' end)
    future = c.async_finally 'finally'
    starts 'finally'
    future:cancel()
    ends('finally', 'tidy')
  end,
}
