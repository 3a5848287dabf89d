-- Two peers that both send much over a narrow link: neither waits for the other for ever.
local yue = require 'yue'
local sim = require 'yue.sim'

local ended = 0
yue.listen('tcp://0.0.0.0:9000', { ended = function() ended = ended + 1 end })

local function peer(me, other)
  local journal = yue.open('tcp://scenario:9000', { retry = true }, nil)
  -- Functions that call back while they are called: requests and answers in both directions.
  local symbols
  symbols = {
    take = function(text, depth)
      if depth > 0 then return #yue.peer().procs.take(text, depth - 1) + 1 end
      return text
    end,
  }
  yue.listen('tcp://0.0.0.0:7000', symbols)
  local peer = yue.open('tcp://' .. other .. ':7000', { retry = true, timeout = 1e6 }, symbols)
  local text = ('x'):rep(60000)
  local fibers = {}
  for i = 1, 20 do
    fibers[i] = yue.spawn(function()
      for _ = 1, 5 do
        assert(peer.take(text, 0) == text)
        assert(peer.take(text, 1) == #text + 1)
      end
    end)
  end
  yue.all(fibers)
  journal.ended()
end

sim.host('a', peer, 'a', 'b')
sim.host('b', peer, 'b', 'a')
sim.link('a', 'b', { latency = 0.001, bandwidth = 2000000 })
sim.short_transfers('a', 0.3)
sim.short_transfers('b', 0.3)
sim.eventually('both have sent everything', 600, function() return ended == 2 end)
