-- Says which driver each loop has got, after some I/O.
local yue = require 'yue'

yue.sleep(0.001)
print(yue.feature.driver)
