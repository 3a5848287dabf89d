-- Loads the module that luarocks has installed below the folder in the first argument.
local greeting = require 'greeting'
local folder = yue.args[1]
assert(greeting.greet('world') == 'hello world')
local source = greeting.source:sub(2)
assert(source:sub(1, #folder) == folder, 'the module was loaded from ' .. source .. ', not from ' .. folder)
print('ok', source)
