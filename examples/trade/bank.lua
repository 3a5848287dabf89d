-- A bank with one function. It has a fault: a payment that is asked for twice is made twice.
--
--   yue sim examples/trade/scenario.lua --runs 100
--
-- `numbers=yes` mends it: each payment has a number, and the bank remembers those that it has made.
local yue = require 'yue'

local journal = yue.open 'tcp://scenario:9000'
local made = {}

yue.listen('tcp://0.0.0.0:7000', {
  pay = function(number, amount)
    if yue.args.numbers == 'yes' and made[number] then return end
    made[number] = true
    -- A bank writes its payments down before it confirms them.
    journal.paid(amount)
  end,
})
