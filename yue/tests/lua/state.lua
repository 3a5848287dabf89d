-- States: one table across reloads, versions of it, and migrations that fail.
local check = require 'check'
local folder = yue.fs.temp()
package.path = folder .. '/?.lua;' .. package.path
local function write(name, text) yue.fs.write(folder .. '/' .. name .. '.lua', text) end

local made = 0
local function init() made = made + 1 return { rooms = { north = { 'bob' } }, count = 1 } end
local state = yue.state('plain', init)
check.that(yue.state('plain', init) == state and made == 1)
check.that(yue.state('plain') == state)
check.equal(yue.state('empty'), {})
check.equal(yue.state('given', { 1, 2 }), { 1, 2 })

-- An init that fails leaves nothing.
check.raises('RuntimeError', 'no', yue.state, 'failing', function() error 'no' end)
check.equal(yue.state('failing', function() return { 1 } end), { 1 })
check.raises('ArgumentError', 'returns a table, not a string', yue.state, 'texts', function() return 'x' end)
check.raises('RuntimeError', 'must not wait, nor ask for its own state', yue.state, 'own', function()
  return yue.state('own', init)
end)
for _, name in ipairs { '', 1, {} } do check.raises('ArgumentError', 'takes a name', yue.state, name, init) end
check.raises('ArgumentError', 'init is a function or a table', yue.state, 'x', 'text')
check.raises('ArgumentError', 'has no option verson; it has: migrate, version', yue.state, 'x', init, { verson = 1 })
check.raises('ArgumentError', 'version is a number or a string', yue.state, 'x', init, { version = {} })
check.raises('ArgumentError', 'migrate is a function', yue.state, 'x', init, { version = 1, migrate = 5 })
check.raises('ArgumentError', 'migrate needs a version', yue.state, 'x', init, { migrate = print })

-- Versions: the same table, migrated in place or by new contents.
local versioned = yue.state('versioned', function() return { names = { 'a', 'b' } } end, { version = 1 })
local names = versioned.names
local given
local after = yue.state('versioned', init, { version = 2, migrate = function(old, version)
  given = version
  old.count = #old.names
end })
check.that(after == versioned and after.names == names)
check.equal({ given, versioned }, { 1, { names = { 'a', 'b' }, count = 2 } })
yue.state('versioned', init, { version = 2, migrate = function() error 'it has this version' end })
local meta = {}
yue.state('versioned', init, { version = 'three', migrate = function(old)
  return setmetatable({ all = old.names }, meta)
end })
check.equal(versioned, { all = { 'a', 'b' } })
check.that(versioned.all == names and getmetatable(versioned) == meta)
setmetatable(versioned, nil)
check.raises('RuntimeError', '"versioned" has the version three, and there is no migrate to 4', yue.state, 'versioned',
  init, { version = 4 })

-- A migration that fails changes nothing, however deep.
local deep = { inner = { list = { 1, 2, 3 } } }
deep.inner.self = deep
local tree = yue.state('tree', deep, { version = 1 })
check.that(tree == deep)
local function spoil(old)
  old.inner.list[2] = 'x'
  old.inner.list[4] = 'y'
  old.inner.self = nil
  old.new = {}
  setmetatable(old.inner, {})
  error 'half-way'
end
check.raises('RuntimeError', 'half-way', yue.state, 'tree', init, { version = 2, migrate = spoil })
local function unspoiled()
  check.equal(tree.inner.list, { 1, 2, 3 })
  check.that(tree.inner.self == tree and tree.new == nil and getmetatable(tree.inner) == nil)
end
unspoiled()
check.raises('ArgumentError', 'returns a table or nothing, not the number 5', yue.state, 'tree', init,
  { version = 2, migrate = function() return 5 end })

-- In a reload: what was migrated, and what was made, is undone if a later module fails.
write('keeper', "return yue.state('kept', function() return { n = 1 } end, { version = 1 })")
local kept = require 'keeper'
kept.n = 5
write('keeper', "-- changed\nreturn yue.state('kept', function() return { n = 1 } end, { version = 1 })")
check.equal(yue.reload().modules, { 'keeper' })
check.that(require 'keeper' == kept and kept.n == 5)
write('keeper', [[
local state = yue.state('kept', nil, { version = 2, migrate = function(old) old.n, old.m = old.n * 2, 1 end })
made_here = yue.state('made here', function() return { marker = true } end)
require 'later'
return state]])
write('later', 'error "the later one"')
check.raises('RuntimeError', 'the later one', yue.reload)
check.equal(kept, { n = 5 })
check.equal(yue.state('made here', function() return { other = true } end), { other = true })
write('later', 'return {}')
check.equal(yue.reload().modules, { 'keeper', 'later' })
check.equal(kept, { n = 10, m = 1 })
check.that(require 'keeper' == kept)
write('keeper', [[return yue.state('kept', nil, { version = 3, migrate = function(old)
  old.n = 'spoilt'
  error 'half'
end })]])
check.raises('RuntimeError', 'nothing was reloaded: keeper.lua:3: half', function()
  local ok, e = pcall(yue.reload)
  if not ok then
    e.msg = e.msg:gsub(folder:gsub('%p', '%%%0') .. '/', '')
    error(e, 0)
  end
end)
check.equal(kept, { n = 10, m = 1 })
check.done()
