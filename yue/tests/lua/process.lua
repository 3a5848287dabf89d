-- Child processes: results, pipes, signals, errors, stops.
local check = require 'check'
local process, fs, const = yue.process, yue.fs, yue.const
local folder = fs.temp()

-- -- run

check.equal(process.run { 'echo', 'a  b', '$HOME', '*', 5 }, { code = 0, out = 'a  b $HOME * 5\n', err = '' })
check.equal(process.run { 'sh', '-c', 'echo out; echo err >&2; exit 3' }, { code = 3, out = 'out\n', err = 'err\n' })
check.equal(process.run { 'sh', '-c', 'kill -TERM $$' }, { signal = const.SIGTERM, out = '', err = '' })
check.equal(process.run { 'true', '' }.code, 0)
check.equal(process.run { 'cat' }.out, '', 'without stdin there is no input')
check.equal(process.run { 'cat', stdin = 'a\0b' }.out, 'a\0b')
local large = ('0123456789abcdef'):rep(200000)
check.that(process.run { 'cat', stdin = large }.out == large, 'more than the pipes hold')
check.that(process.run { 'sh', '-c', 'cat >&2', stdin = large }.err == large)
check.equal(process.run { 'true', stdin = large }.code, 0, 'a program that does not read its input')
check.equal(process.run { 'pwd', cwd = folder }.out, fs.list '/proc/self/cwd' and folder .. '\n')
check.equal(process.run { 'sh', '-c', 'echo "$A-$B-$HOME"', env = { A = 'x=y', B = 7, HOME = false } }.out, 'x=y-7-\n')

-- Many at once, and the loop continues.
local turns, stop = 0, false
local other = yue.spawn(function() while not stop do turns = turns + 1 yue.yield() end end)
local fibers = {}
for i = 1, 8 do fibers[i] = yue.spawn(process.run, { 'sh', '-c', 'read x; echo $x', stdin = i .. '\n' }) end
for i = 1, 8 do check.equal(fibers[i]:get().out, i .. '\n') end
check.that(turns > 8)
stop = true
other:get()

-- Whether a process with this id still runs. One that has ended and is not reaped does not.
local function is_alive(pid)
  local ok, text = pcall(fs.read, ('/proc/%d/stat'):format(pid))
  return ok and not text:find '^%d+ %b() [ZX]'
end

-- A time limit, and a cancel, kill the program.
check.raises('TimeoutError', "'sleep' did not end within 0.1 s", process.run, { 'sleep', '1000', timeout = 0.1 })
do
  local slow = process.spawn { 'sleep', '1000' }
  check.raises('TimeoutError', "'sleep' did not end within 0.1 s", slow.wait, slow, 0.1)
  check.raises('ArgumentError', 'wait takes seconds', slow.wait, slow, 'x')
  slow:kill()
  check.equal(slow:wait(10), { signal = 9 })
end
local pid_file = folder .. '/pid'
local running = yue.spawn(process.run, {
  'sh', '-c', 'echo $$ > pid.new; mv pid.new pid; exec sleep 1000', cwd = folder,
})
local cancelled_pid = check.eventually(function()
  local pid = fs.exists(pid_file) and tonumber(fs.read(pid_file))
  return pid and is_alive(pid) and pid
end)
running:cancel()
check.raises('CancelledError', nil, running.get, running)
check.eventually(function() return not is_alive(cancelled_pid) end)

for _, script in ipairs { 'yes', 'yes >&2' } do
  local e = check.raises('RuntimeError', 'raise output_max', process.run, { 'sh', '-c', script, output_max = 1000 })
  check.equal(e.code, 'EFBIG')
end
check.equal(process.run { 'printf', '12345', output_max = 5 }.out, '12345')
check.raises('RuntimeError', 'output_max', process.run, { 'printf', '12345', output_max = 4 })

-- -- spawn

local cat = process.spawn { 'cat' }
check.equal(tostring(cat), ('process %d (cat)'):format(cat.pid))
check.that(is_alive(cat.pid))
cat:write('one\ntwo\nthr')
check.equal(cat:line(), 'one')
check.equal(cat:read(2), 'tw')
check.equal(cat:line(), 'o')
local waiting = yue.spawn(function() return cat:line() end)
yue.yield()
cat:write('ee\nrest')
check.equal(waiting:get(), 'three')
check.equal(cat:read(), 'rest')
cat:write('to the end')
cat:close_stdin()
cat:close_stdin()
check.equal(cat:read '*a', 'to the end')
check.equal({ cat:read(), cat:line(), cat:read(1) }, {})
check.equal(cat:read '*a', '')
check.equal(cat:read(0), '')
check.equal(cat:wait(), { code = 0 })
check.equal(cat:wait(), { code = 0 })
check.equal(cat:kill(), false)
check.equal(is_alive(cat.pid), false)
check.equal(check.raises('RuntimeError', 'closed', cat.write, cat, 'x').code, 'EPIPE')

local sh = process.spawn { 'sh', '-c', 'echo a; echo b; echo c >&2; exit 4', stderr = 'pipe' }
local seen = {}
for line in sh:lines() do seen[#seen + 1] = line end
check.equal(seen, { 'a', 'b' })
check.equal(sh.err:line(), 'c')
check.equal(sh.err:line(), nil)
check.equal(sh:wait(), { code = 4 })

-- A line that is cut by a cancelled wait is not lost.
local cut = process.spawn { 'cat' }
cut:write 'half'
check.raises('TimeoutError', nil, yue.timeout, 0.2, cut.line, cut)
cut:write ' whole\n'
check.equal(cut:line(), 'half whole')
cut:write '123'
check.raises('TimeoutError', nil, yue.timeout, 0.2, cut.read, cut, 6)
cut:write '456'
check.equal(cut:read(6), '123456')

-- Signals; several fibers wait.
local sleeper = process.spawn { 'sleep', '1000', stdin = 'null', stdout = 'null' }
check.equal(sleeper:read(), nil)
local waits = {}
for i = 1, 3 do waits[i] = yue.spawn(sleeper.wait, sleeper) end
local given_up = yue.spawn(sleeper.wait, sleeper)
yue.yield()
given_up:cancel()
check.raises('CancelledError', nil, given_up.get, given_up)
check.equal(sleeper:kill(const.SIGTERM), true)
for i = 1, 3 do check.equal(waits[i]:get(), { signal = const.SIGTERM }) end
check.equal(cut:kill(), true)
check.equal(cut:wait(), { signal = 9 })

-- The reader of a program has gone.
local deaf = process.spawn { 'sh', '-c', 'exec <&-; echo ready; exec sleep 1000' }
check.equal(deaf:line(), 'ready')
check.equal(check.raises('RuntimeError', 'cannot write', deaf.write, deaf, 'x').code, 'EPIPE')
deaf:kill()
deaf:wait()

-- A child that nobody waits for is reaped when its object is gone.
local pid
do
  local lost = process.spawn { 'true' }
  pid = lost.pid
  lost:read()
end
check.eventually(function()
  collectgarbage()
  return not fs.exists('/proc/' .. pid)
end)

-- -- Errors

local e = check.raises('RuntimeError', "cannot start the program 'no-such-program'", process.run, { 'no-such-program' })
check.equal(e.code, 'ENOENT')
e = check.raises('RuntimeError', "in the folder '/no/such'", process.spawn, { 'true', cwd = '/no/such' })
check.equal(e.code, 'ENOENT')
e = check.raises('RuntimeError', "cannot start the program '/etc/passwd'", process.run, { '/etc/passwd' })
check.equal(e.code, 'EACCES')

for _, name in ipairs { 'run', 'spawn' } do
  local f = process[name]
  check.raises('ArgumentError', 'it takes a list, not a string', f, 'ls')
  check.raises('ArgumentError', 'it takes a list, not nil', f)
  check.raises('ArgumentError', 'the program first', f, {})
  check.raises('ArgumentError', 'the program first', f, { '' })
  check.raises('ArgumentError', 'word 2 is a string, not a table', f, { 'ls', {} })
  check.raises('ArgumentError', 'word 2 contains a zero byte', f, { 'ls', 'a\0b' })
  check.raises('ArgumentError', 'no option dir; it has: cwd, env', f, { 'ls', dir = '/' })
  check.raises('ArgumentError', 'cwd is a path', f, { 'ls', cwd = 5 })
  check.raises('ArgumentError', 'env is a table', f, { 'ls', env = 'A=b' })
  check.raises('ArgumentError', 'not one: A=', f, { 'ls', env = { ['A='] = 'b' } })
  check.raises('ArgumentError', 'env.A is a string', f, { 'ls', env = { A = true } })
  check.raises('ArgumentError', 'contains a zero byte', f, { 'ls', env = { A = 'a\0' } })
end
check.raises('ArgumentError', 'stdin is the text', process.run, { 'ls', stdin = 5 })
check.raises('ArgumentError', 'output_max is a number', process.run, { 'ls', output_max = -1 })
check.raises('ArgumentError', 'timeout takes seconds', process.run, { 'ls', timeout = 'x' })
check.raises('ArgumentError', "stdin is 'pipe', 'null' or 'inherit'", process.spawn, { 'ls', stdin = 'text' })
local idle = process.spawn { 'cat' }
check.raises('ArgumentError', 'kill takes a signal', idle.kill, idle, 'TERM')
check.raises('ArgumentError', 'kill takes a signal', idle.kill, idle, 0)
check.raises('ArgumentError', 'write takes a string', idle.write, idle)
check.raises('ArgumentError', 'read takes nothing', idle.read, idle, -1)
check.raises('ArgumentError', 'read takes nothing', idle.read, idle, '*l')
idle:wait()
check.done()
