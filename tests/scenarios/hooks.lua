-- The hooks of a connection run in order: open, accept, close, each at most once, whenever the link breaks.
local yue = require 'yue'
local sim = require 'yue.sim'

local fault, closed = nil, 0
yue.listen('tcp://0.0.0.0:9000', {
  fault = function(text) sim.note(text) fault = text end,
  closed = function() closed = closed + 1 end,
})

local function server()
  local journal = yue.open('tcp://scenario:9000', { retry = true, timeout = 1e6 }, nil)
  local function expect(conn, state, wanted)
    if conn.state ~= wanted then
      journal.fault(('%s in the state %s'):format(state, tostring(conn.state)))
    end
    conn.state = state
  end
  yue.listen('tcp://0.0.0.0:7000', {
    __open = function(conn) expect(conn, 'open', nil) end,
    __accept = function(conn)
      expect(conn, 'accepting', 'open')
      yue.sleep(math.random() * 0.005)
      local name = conn.procs.login()
      expect(conn, 'accepted', 'accepting')
      return name == 'frodo'
    end,
    __close = function(conn)
      if conn.state ~= 'accepted' and conn.state ~= 'accepting' and conn.state ~= 'open' then
        journal.fault('close in the state ' .. tostring(conn.state))
      end
      conn.state = 'closed'
      journal.closed()
    end,
    ping = function()
      if yue.peer().state ~= 'accepted' then journal.fault('a call in the state ' .. yue.peer().state) end
      return true
    end,
  })
end

local function client()
  while true do
    local conn = yue.socket('tcp://server:7000', { no_cache = true, timeout = 1 }, {
      login = function()
        yue.sleep(math.random() * 0.005)
        return math.random() < 0.8 and 'frodo' or 'gollum'
      end,
    })
    for _ = 1, math.random(3) do pcall(conn.procs.ping) end
    conn:close()
    yue.sleep(math.random() * 0.01)
  end
end

sim.host('server', server)
sim.host('a', client)
sim.host('b', client)
for i = 1, 20 do
  sim.at(sim.random() * 2, function() sim.reset('server', i % 2 == 0 and 'a' or 'b') end)
end
sim.always('hooks run in order', function() return not fault, fault end)
sim.eventually('connections close', 30, function() return closed > 50 end)
