-- Held calls over lost links: no call runs twice, none runs that is called retryable, and each has an end.
local yue = require 'yue'
local sim = require 'yue.sim'

local ran, retryable, ended = {}, {}, 0
local fault
yue.listen('tcp://0.0.0.0:9000', {
  ran = function(key)
    if ran[key] then fault = key .. ' ran twice' end
    if retryable[key] then fault = key .. ' ran, and was called retryable' end
    ran[key] = true
  end,
  retryable = function(key)
    if ran[key] then fault = key .. ' was called retryable, and had run' end
    retryable[key] = true
  end,
  ended = function() ended = ended + 1 end,
})

local function server()
  local journal = yue.open('tcp://scenario:9000', { retry = true }, nil)
  yue.listen('tcp://0.0.0.0:7000', {
    apply = function(key)
      -- Before anything else: what the journal does not hear of cannot be wrong.
      journal.timed_ran(1e6, key)
      return key
    end,
  })
end

local function client(name)
  local journal = yue.open('tcp://scenario:9000', { retry = true }, nil)
  local server = yue.open('tcp://server:7000', { retry = true, timeout = 5 }, nil)
  -- A client that crashes begins anew: it is another program then, with other keys.
  name = name .. yue.crypto.hex(yue.crypto.random(4))
  local function call(number)
    for attempt = 1, math.huge do
      local key = ('%s/%d/%d'):format(name, number, attempt)
      local ok, result = pcall(server.apply, key)
      if ok then
        assert(result == key)
        break
      end
      if not result.retryable then break end
      journal.timed_retryable(1e6, key)
      yue.sleep(0.1)
    end
    journal.timed_ended(1e6)
  end
  for round = 0, 9 do
    for number = 1, 4 do yue.spawn(call, round * 4 + number) end
    yue.sleep(math.random() * 2)
  end
end

sim.host('server', server)
for _, name in ipairs { 'a', 'b' } do sim.host(name, client, name) end
sim.chaos(3, { hosts = { 'server', 'a', 'b' }, seconds = 30 })
sim.always('no call runs twice, none that is called retryable', function() return not fault, fault end)
sim.eventually('all calls have an end', 300, function() return ended >= 80 end)
