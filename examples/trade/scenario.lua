-- A trade that pays twice: the link between customer and bank breaks after the payment, and before its answer.
--
--   yue sim examples/trade/scenario.lua --runs 100                 finds a seed that fails
--   yue sim examples/trade/scenario.lua --runs 100 numbers=yes     finds none: see bank.lua
local yue = require 'yue'
local sim = require 'yue.sim'

-- The journal: what really happened, whatever hosts believe.
local paid = 0
yue.listen('tcp://0.0.0.0:9000', {
  paid = function(amount) paid = paid + amount end,
})

sim.host('bank', 'bank.lua', unpack(arg))
sim.host('customer', 'customer.lua')

sim.always('the customer pays once', function() return paid <= 100 end)
sim.eventually('the bank is paid', 60, function() return paid >= 100 end)

-- The link breaks at some time, and comes back.
yue.sleep(sim.random() * 0.003)
sim.partition('bank', 'customer')
yue.sleep(20)
sim.heal('bank', 'customer')
yue.sleep(40)
