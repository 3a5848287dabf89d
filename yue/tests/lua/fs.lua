--! stderr: no such file or directory
-- Files and directories: contents, facts, errors, and that the loop continues.
local check = require 'check'
local fs = yue.fs

local folder = fs.temp()
check.equal(fs.stat(folder).kind, 'directory')
local function at(name) return folder .. '/' .. name end

-- -- Contents

fs.write(at 'a', 'one\0two\n')
check.equal(fs.read(at 'a'), 'one\0two\n')
fs.write(at 'a', '')
check.equal(fs.read(at 'a'), '')
fs.append(at 'a', 'x')
fs.append(at 'a', 'y')
fs.append(at 'new', '')
check.equal(fs.read(at 'a'), 'xy')
check.equal(fs.read(at 'new'), '')

-- Sizes around those of the buffers, one after the other and at the same time.
local fibers = {}
for i, size in ipairs { 1, 65535, 65536, 65537, 3000000, 5, 131072 } do
  local text = ('%08d'):format(i):rep(size / 8 + 1):sub(1, size)
  fs.write(at('size' .. i), text)
  check.that(fs.read(at('size' .. i)) == text, size)
  fibers[i] = yue.spawn(function()
    for _ = 1, 5 do check.that(fs.read(at('size' .. i)) == text, size) end
  end)
end
yue.all(fibers)
for i = 1, #fibers do fs.remove(at('size' .. i)) end
-- A file whose size the system does not know.
check.contains(fs.read '/proc/self/status', 'VmRSS')

-- Other fibers run while one reads from a pipe that nobody writes to yet.
check.equal(os.execute("mkfifo '" .. at 'pipe' .. "'"), 0)
local reader = yue.spawn(fs.read, at 'pipe')
yue.yield()
check.equal(reader:done(), false)
fs.write(at 'pipe', 'through')
check.equal(reader:get(), 'through')
check.equal(fs.stat(at 'pipe').kind, 'other')
fs.remove(at 'pipe')

-- -- Lines

local function lines_of(text)
  fs.write(at 'lines', text)
  local all = {}
  for line in fs.lines(at 'lines') do all[#all + 1] = line end
  return all
end
check.equal(lines_of '', {})
check.equal(lines_of '\n', { '' })
check.equal(lines_of 'a\n\nb', { 'a', '', 'b' })
check.equal(lines_of 'a\r\nb\0\n', { 'a\r', 'b\0' })
local long = ('x'):rep(200000)
check.that(lines_of('a\n' .. long .. '\nb\n')[2] == long)
check.equal(#lines_of(('line\n'):rep(50000)), 50000)
local next_line = fs.lines(at 'lines')
check.equal(next_line(), 'line')
fs.remove(at 'lines')
check.equal(next_line(), 'line', 'an open file outlives its name')
next_line = nil
collectgarbage()

local e = check.raises('RuntimeError', 'has a line of more than', function()
  for _ in fs.lines '/dev/zero' do check.that(false) end
end)
check.equal(e.code, 'EFBIG')

-- -- Directories and facts

fs.mkdir(at 'dir')
fs.mkdir(at 'deep/er/est', { parents = true })
fs.mkdir(at 'deep/er/est', { parents = true })
fs.write(at 'dir/b', '12345')
fs.write(at 'dir/a', '')
fs.mkdir(at 'dir/c')
check.equal(os.execute(("ln -s missing '%s'"):format(at 'dir/l')), 0)
check.equal(fs.list(at 'dir'), { 'a', 'b', 'c', 'l' })
check.equal(select('#', fs.list(at 'dir')), 1)
local names, kinds = fs.list(at 'dir', { kinds = true })
check.equal(#names, 4)
check.equal(kinds, { a = 'file', b = 'file', c = 'directory', l = 'link' })
check.equal(fs.list(at 'dir/c'), {})

local facts = fs.stat(at 'dir/b')
check.equal(facts.kind, 'file')
check.equal(facts.size, 5)
check.equal(facts.links, 1)
check.that(math.abs(facts.mtime - yue.time()) < 3600)
check.that(facts.mode > 0 and facts.mode < 4096)
for _, field in ipairs { 'atime', 'ctime', 'uid', 'gid', 'inode' } do
  check.equal(type(facts[field]), 'number', field)
end
check.equal(fs.stat(at 'nothing'), nil)
check.equal(fs.stat(at 'dir/b/under a file'), nil)
check.equal(fs.stat(at 'dir/l'), nil, 'a link to nothing')
check.equal(fs.stat(at 'dir/l', { follow = false }).kind, 'link')
check.equal(fs.exists(at 'dir'), true)
check.equal(fs.exists(at 'nothing'), false)

fs.rename(at 'dir/a', at 'dir/b')
check.equal(fs.read(at 'dir/b'), '', 'replaced')
check.equal(fs.exists(at 'dir/a'), false)
fs.remove(at 'dir/l')
fs.remove(at 'dir/c')
e = check.raises('RuntimeError', 'recursive', fs.remove, at 'dir')
check.equal(e.code, 'ENOTEMPTY')
fs.remove(at 'dir', { recursive = true })
check.equal(fs.exists(at 'dir'), false)
fs.remove(at 'new', { recursive = true })
check.equal(fs.exists(at 'new'), false)

-- -- Errors: the code, the path, and what to do

local function fails(code, path, text, fn, ...)
  local failure = check.raises('RuntimeError', text, fn, ...)
  check.equal(failure.code, code)
  check.contains(failure.msg, path)
end
local nothing = at 'nothing'
fails('ENOENT', nothing, 'cannot read', fs.read, nothing)
fails('ENOENT', nothing, 'check the path', fs.read, nothing)
fails('ENOENT', nothing, 'cannot read', fs.lines, nothing)
fails('ENOENT', nothing, 'cannot list', fs.list, nothing)
fails('ENOENT', nothing, 'cannot remove', fs.remove, nothing)
fails('ENOENT', nothing, 'cannot remove', fs.remove, nothing, { recursive = true })
fails('ENOENT', nothing, 'cannot rename', fs.rename, nothing, at 'b')
fails('ENOENT', at 'x/y', 'cannot write', fs.write, at 'x/y', '')
fails('ENOENT', at 'x/y', 'cannot append to', fs.append, at 'x/y', '')
fails('ENOENT', at 'x/y', 'cannot create the directory', fs.mkdir, at 'x/y')
fails('EEXIST', folder, 'cannot create the directory', fs.mkdir, folder)
fails('EISDIR', folder, 'cannot read', fs.read, folder)
fails('EISDIR', folder, 'cannot write', fs.write, folder, 'x')
fails('ENOTDIR', at 'a', 'cannot list', fs.list, at 'a')
fails('ENOTDIR', at 'a', 'cannot create the directory', fs.mkdir, at 'a/b')
fails('EINVAL', 'a', 'cannot read', fs.read, 'a\0b')
fails('EINVAL', 'a', 'cannot list', fs.list, 'a\0b')
fails('ENAMETOOLONG', 'xxx', 'cannot read', fs.read, ('x'):rep(5000))

-- The code, a text, does not disturb a peer: there it is the number of the class.
local procs, listener = check.pair { read = fs.read }
e = check.raises('RuntimeError', 'no such file', procs.read, nothing)
check.equal(type(e.code), 'number')
listener:close()

for _, name in ipairs { 'read', 'write', 'append', 'lines', 'list', 'stat', 'exists', 'rename', 'remove', 'mkdir' } do
  check.raises('ArgumentError', 'yue.fs.' .. name .. ' takes a path', fs[name])
  check.raises('ArgumentError', 'takes a path, a string, not the number 5', fs[name], 5)
  check.raises('ArgumentError', 'not an empty string', fs[name], '')
end
check.raises('ArgumentError', 'takes a string, not nil', fs.write, at 'a')
check.raises('ArgumentError', 'takes a string, not a table', fs.append, at 'a', {})
check.raises('ArgumentError', 'takes a path', fs.rename, at 'a')
check.raises('ArgumentError', 'no option parent; it has: parents', fs.mkdir, at 'z', { parent = true })
check.raises('ArgumentError', 'the options are a table', fs.list, folder, true)

-- -- Stops

check.equal(os.execute("mkfifo '" .. at 'pipe' .. "'"), 0)
check.raises('TimeoutError', nil, yue.timeout, 0, fs.read, at 'a')
local cancelled = yue.spawn(fs.write, at 'b', 'x')
cancelled:cancel()
check.raises('CancelledError', nil, cancelled.get, cancelled)
check.equal(fs.exists(at 'b'), false)

-- Removed by the program: the end has nothing left to do.
local other = fs.temp()
check.that(other ~= folder)
fs.write(other .. '/x', 'x')
fs.remove(other, { recursive = true })
fs.mkdir(other)
fs.remove(other)

-- A thread's are removed when it ends.
local thread = yue.thread('temporary', function()
  yue.thread.current:import { make = function()
    local path = yue.fs.temp()
    yue.fs.write(path .. '/file', 'x')
    return path
  end }
end)
local theirs = thread.procs.make()
check.equal(fs.read(theirs .. '/file'), 'x')
thread:close()
thread:join()
check.equal(fs.exists(theirs), false)
check.done()
