-- Starts the arena's bots twice, each time with one bot, and compares where it wants to go.
local yue = require 'yue'

local bots = yue.args[1]
local steered = yue.channel(100)
local listener = yue.listen('tcp://127.0.0.1:0', {
  __accept = function(conn)
    conn.procs.login()
    return true
  end,
  steer = function(dx, dy) steered:put(('%.17g %.17g'):format(dx, dy)) end,
})

local function first_path()
  local program = yue.process.spawn { '/proc/self/exe', bots, listener:addr(), '1' }
  local path = steered:get()
  program:kill()
  program:wait()
  return path
end

local first = first_path()
-- What the first one has sent since.
while steered:count() > 0 do steered:get() end
print(first ~= first_path() and 'they differ' or 'both went ' .. first)
listener:close()
