--! stderr: `os` in a namespace is a loaded module, which cannot be called from outside
--! stderr: `ffi` in a namespace is a loaded module
--! stderr: `helper` in a namespace is a loaded module
--! stderr: `deep.own.io` in a namespace is a loaded module
--! stderr: `late` in a namespace is a loaded module
-- Modules are not part of a namespace, however they got into it.
local check = require 'check'
local listener = yue.listen('tcp://127.0.0.1:0', 'lib/modules_symbols.lua')
local c = yue.open(listener:addr())
check.equal({ c.hello(), c.deep.own.f() }, { 'hello', 'own' })
check.equal(c.execute('NO_SUCH_VARIABLE'), nil)
for _ = 1, 3 do
  for _, name in ipairs { 'getenv', 'execute', 'exit' } do check.raises('NoMethodError', name, c.os[name]) end
end
check.raises('NoMethodError', 'ffi.string', c.ffi.string, 'x')
check.raises('NoMethodError', 'helper.show', c.helper.show, 1)
check.raises('NoMethodError', 'deep.own.io.open', c.deep.own.io.open, 'x')
-- Also later.
listener.namespace.late = string
check.raises('NoMethodError', 'late.rep', c.late.rep, 'x', 3)
listener.namespace.late = { rep = string.rep }
check.equal(c.late.rep('x', 3), 'xxx')
package.loaded.mine = listener.namespace.late
check.raises('NoMethodError', 'late.rep', c.late.rep, 'x', 3)
-- Lua's own are not taken as symbols at all; a module of the program's is.
for name, library in pairs { _G = _G, os = os, string = string, yue = yue } do
  check.raises('ArgumentError', name .. ' cannot be a namespace', yue.listen, 'tcp://127.0.0.1:0', library)
end
local module = { f = function() return 'module' end }
package.loaded.a_module = module
local other = yue.listen('tcp://127.0.0.1:0', require 'a_module')
check.equal(yue.open(other:addr()).f(), 'module')
listener:close()
other:close()
check.done()
