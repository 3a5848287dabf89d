-- A server. Run it with:  cargo run --release -- examples/server.lua [address]
-- and examples/client.lua in another terminal. Ctrl-C ends it.
local yue = require 'yue'

local visitors = 0

local listener = yue.listen(yue.args[1] or 'tcp://127.0.0.1:8080', {
  hello = function(name)
    visitors = visitors + 1
    return ('hello %s, you are number %d'):format(name, visitors)
  end,

  -- The server may call its client, in the middle of the client's call.
  guess = function()
    local low, high, tries = 1, 100, 0
    repeat
      local middle = math.floor((low + high) / 2)
      local answer = yue.peer().procs.is_it(middle)
      tries = tries + 1
      if answer == 'higher' then low = middle + 1 elseif answer == 'lower' then high = middle - 1 end
    until answer == 'yes'
    return tries
  end,
})

print('serving at ' .. listener:addr())
io.stdout:flush()
