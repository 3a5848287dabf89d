-- A client of examples/server.lua. Run it with:  cargo run --release -- examples/client.lua [address] [name=you]
local yue = require 'yue'

local number = 42

-- The third argument is what the server may call on us.
local server = yue.open(yue.args[1] or 'tcp://127.0.0.1:8080', nil, {
  is_it = function(guess)
    print('  the server guesses ' .. guess)
    if guess < number then return 'higher' elseif guess > number then return 'lower' end
    return 'yes'
  end,
})

print(server.hello(yue.args.name or 'world'))
print(('the server found my number in %d tries'):format(server.guess()))
