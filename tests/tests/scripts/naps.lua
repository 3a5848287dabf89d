-- A server whose answers take a while.
local yue = require 'yue'
local l = yue.listen(yue.args[1], {
  nap = function(seconds)
    yue.sleep(seconds)
    return 'answer'
  end,
})
io.stdout:write('serving at ' .. l:addr() .. '\n')
io.stdout:flush()
