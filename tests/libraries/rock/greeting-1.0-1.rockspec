package = 'greeting'
version = '1.0-1'
source = { url = 'file://greeting.lua' }
build = { type = 'builtin', modules = { greeting = 'greeting.lua' } }
