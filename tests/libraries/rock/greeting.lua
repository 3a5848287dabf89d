-- The module that luarocks installs.
return { greet = function(name) return 'hello ' .. name end, source = debug.getinfo(1, 'S').source }
