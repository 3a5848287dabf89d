-- Symbols of namespaces.lua: modules that became globals by a forgotten `local`.
os = require 'os'
ffi = require 'ffi'
helper = require 'check'
function hello() return 'hello' end
deep = { own = { f = function() return 'own' end, io = io } }
execute = os.getenv
