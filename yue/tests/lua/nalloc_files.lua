--! stderr: the owner has no file
-- What a node may ask of its owner: modules of `package.path` and listed files, and nothing else.
local yue = require 'yue'
local check = require 'check'
local nodes = require 'nodes'

package.path = nodes.place .. '/?.lua;' .. nodes.place .. '/lib-?.lua;' .. nodes.place .. '/?/init.lua;' .. package.path
yue.fs.mkdir(nodes.place .. '/pack')
yue.fs.mkdir(nodes.place .. '/assets')
nodes.write('simple.lua', 'return { value = "simple" }')
nodes.write('lib-prefixed.lua', 'return { value = "prefixed" }')
nodes.write('pack/init.lua', 'return { value = "pack" }')
nodes.write('pack/inner.lua', 'return { value = "inner" }')
nodes.write('broken.lua', 'return +')
nodes.write('raises.lua', 'error "raised"')
nodes.write('.hidden.lua', 'return { value = "hidden" }')
nodes.write('secret.txt', 'secret')
nodes.write('map.bin', ('x'):rep(3 * 2 ^ 20) .. 'end')
nodes.write('assets/one.txt', 'one')
nodes.write('assets/.env', 'key')
os.execute(('ln -s /etc/passwd %s/assets/link.txt; ln -s /etc %s/etc'):format(nodes.place, nodes.place))
os.execute(('ln -s secret.txt %s/linked.lua'):format(nodes.place))

-- A command's node is on another machine, for all that its owner knows: files are copied.
os.execute('mkdir -p ' .. nodes.place .. '/cache')
local far = { command = { yue.node.binary, 'node' } }
local options = {
  files = { 'map.bin', 'assets/*', 'missing', '.hidden.lua', '*' },
  env = { XDG_CACHE_HOME = nodes.place .. '/cache' },
}
for _, target in ipairs { 'local', far } do
  local node = yue.nalloc(target, nodes.library, options)
  for name, value in pairs {
    simple = 'simple', prefixed = 'prefixed', pack = 'pack', ['pack.inner'] = 'inner',
  } do
    check.equal(node.load_module(name), value)
  end
  for _, name in ipairs {
    '../simple', '/etc/passwd', 'etc.passwd', '.hidden', 'linked', 'a b', '', 'simple.', '.', ('x'):rep(300), 'none',
    'pack/inner', 'simple\0',
  } do
    local ok, message = node.try_module(name)
    check.equal(ok, false, name)
    check.contains(tostring(message), 'not found', name)
  end
  check.contains(tostring(select(2, node.try_module('broken'))), 'broken.lua:1:')
  check.contains(tostring(select(2, node.try_module('raises'))), 'raised')
  check.equal(#node.read('map.bin'), 3 * 2 ^ 20 + 3)
  check.equal(node.read('assets/one.txt'), 'one')
  check.equal(node.path_of('map.bin') == nodes.place .. '/map.bin', target == 'local')
  for _, name in ipairs {
    'assets/link.txt', 'assets/.env', 'assets/../secret.txt', '../secret.txt', '/etc/passwd', 'etc/passwd', 'missing',
    '.hidden.lua', 'assets', '', 'map.bin/', './map.bin', 'pack/inner.lua',
  } do
    check.raises('ArgumentError', nil, node.read, name)
  end
  yue.conn(node):close()
end
-- A second node finds the copy.
local again = yue.nalloc(far, nodes.library, options)
check.contains(again.path_of('map.bin'), nodes.place .. '/cache/yue/files/')
local strict = yue.nalloc(far, nodes.library)
check.raises('ArgumentError', 'does not list', strict.read, 'map.bin')

-- The first answer for a module counts for the whole node; another node has the new one.
check.equal(again.load_module('simple'), 'simple')
nodes.write('simple.lua', 'return { value = "changed" }')
local version = yue.conn(again).node.version
check.that(version ~= yue.conn(strict).node.version)
check.equal(strict.load_module('simple'), 'changed')

-- Nobody but a node may ask.
local listener = yue.listen('tcp://127.0.0.1:0', {})
local stranger = yue.open(listener:addr())
for _, name in ipairs { 'job', 'source', 'file', 'chunk', 'renew', 'started' } do
  check.raises('NoMethodError', nil, stranger['=$yue/node/' .. name], 'simple')
end
listener:close()

nodes.remove()
check.done()
