-- Watches of files and directories.
local check = require 'check'
local fs = yue.fs

local folder = fs.temp()
local function at(name) return folder .. '/' .. name end

-- Records what a watch emits, as `event name`.
local function record(watch, events)
  local seen = {}
  for _, event in ipairs(events) do
    watch:bind(event, function(path) seen[event .. ' ' .. path] = (seen[event .. ' ' .. path] or 0) + 1 end)
  end
  return seen
end
local function comes(seen, what)
  check.eventually(function() return seen[what] end, what .. ' was not emitted')
end

-- -- A directory

local watch = fs(folder)
check.equal(tostring(watch), ("watch of '%s'"):format(folder))
local seen = record(watch, { 'change', 'create', 'remove', 'write', 'attributes' })
fs.write(at 'a', 'one')
comes(seen, 'create ' .. at 'a')
comes(seen, 'write ' .. at 'a')
comes(seen, 'change ' .. at 'a')
fs.rename(at 'a', at 'b')
comes(seen, 'remove ' .. at 'a')
comes(seen, 'create ' .. at 'b')
comes(seen, 'change ' .. at 'b')
check.equal(os.execute("chmod 600 '" .. at 'b' .. "'"), 0)
comes(seen, 'attributes ' .. at 'b')
fs.remove(at 'b')
comes(seen, 'remove ' .. at 'b')
watch:close()
watch:close()
check.equal(tostring(watch), ("watch of '%s' (closed)"):format(folder))
fs.write(at 'a', 'closed')

-- -- A file, of which a program is written anew and put in its place

fs.write(at 'config', '1')
local one = fs(at 'config', 'change')
local changes = record(one, { 'change' })
fs.write(at 'other', 'x')
fs.write(at 'config.new', '2')
fs.rename(at 'config.new', at 'config')
comes(changes, 'change ' .. at 'config')
fs.write(at 'config', '3')
check.eventually(function() return changes['change ' .. at 'config'] >= 2 end, 'the second change')
for key in pairs(changes) do check.equal(key, 'change ' .. at 'config') end
check.raises('ArgumentError', 'has no event create', one.bind, one, 'create', print)
one:close()

-- A wait, for a file that does not exist yet; by a relative path, too.
local ready = fs(at 'ready', { 'create', 'remove' })
local waiter = yue.spawn(function() return ready:wait 'create' end)
yue.yield()
fs.write(at 'ready', '')
check.equal({ waiter:get() }, { true, at 'ready' })
ready:close()
check.equal(ready:wait 'create', false)
fs('no such file here', 'create'):close()

-- -- Ends: the directory is removed, the client that opened it ends, the watch is closed in a callback

fs.mkdir(at 'dir')
local gone = fs(at 'dir')
local ended = record(gone, { 'remove' })
fs.remove(at 'dir')
comes(ended, 'remove ' .. at 'dir')
check.eventually(function() return gone.closed end)

local inside
yue.client(function()
  inside = fs(folder)
  return true
end)
check.equal(inside.closed, true)

local self_closed = fs(folder, 'create')
self_closed:bind('create', function() self_closed:close() end)
fs.write(at 'last', '')
check.eventually(function() return self_closed.closed end)

-- -- Errors

check.equal(check.raises('RuntimeError', 'cannot watch', fs, at 'x/y/z').code, 'ENOENT')
check.raises('ArgumentError', 'yue.fs takes a path', fs)
check.raises('ArgumentError', 'has no event changed; it has: change', fs, folder, 'changed')
check.raises('ArgumentError', 'or a list of events', fs, folder, {})
check.raises('ArgumentError', 'has no event', fs, folder, { {} })
check.done()
