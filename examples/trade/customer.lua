-- A customer who pays 100, and tries again if the bank does not answer.
local yue = require 'yue'

local bank = yue.open 'tcp://bank:7000'
repeat
  local ok = pcall(bank.pay, 1, 100)
until ok
print 'paid'
