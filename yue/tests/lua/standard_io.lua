--! stdout: printed	1	nil	true
-- The functions of `io` that may wait, wait in their fiber: pipes, named pipes, devices, the standard input. Their
-- results are those of Lua 5.1.
local check = require 'check'
local folder = yue.fs.temp()

-- Turns of another fiber while `work` runs.
local function turns_during(work)
  local turns, done = 0, false
  local other = yue.spawn(function()
    while not done do
      turns = turns + 1
      yue.sleep(0.001)
    end
  end)
  work()
  done = true
  other:get()
  return turns
end

print('printed', 1, nil, true)
check.equal({ pcall(print, setmetatable({}, { __tostring = function() return 'x' end })) }, { true })
check.equal(io.write('a', 1, 2.5, '\n'), true)
check.equal({ pcall(io.write, 'a', nil) }, { false, "bad argument #2 to 'write' (string expected, got nil)" })
check.equal({ pcall(io.stdout.write, io.stdout, {}) },
  { false, "bad argument #1 to 'write' (string expected, got table)" })
check.equal(io.stdout:flush(), true)
check.equal(io.flush(), true)
check.equal(io.stdout:setvbuf('full'), true)
check.equal(io.stdout:setvbuf('line'), true)
check.that(not pcall(io.stdout.setvbuf, io.stdout, 'some'))

-- Commands.
local p = io.popen('echo one; echo two; printf three')
check.equal(io.type(p), 'file')
check.equal(p:read(), 'one')
check.equal({ p:read('*L', '*a') }, { 'two\n', 'three' })
check.equal(p:read('*a'), '')
check.equal(p:read(), nil)
check.equal({ p:write('x') }, { nil, 'the file is open for reading', 9 })
check.equal({ p:seek() }, { nil, 'Illegal seek', 29 })
check.equal({ p:close() }, { true, 'exit', 0 })
check.equal(io.type(p), 'closed file')
check.equal(tostring(p), 'file (closed)')
check.that(select(2, pcall(p.read, p)):find('attempt to use a closed file', 1, true))
check.equal({ io.popen('exit 3'):close() }, { true, 'exit', 3 })
check.equal({ io.popen('kill -9 $$'):close() }, { true, 'signal', 9 })
local w = io.popen(("cat > '%s/written'; exit 4"):format(folder), 'w')
check.equal(w:write('hello ', 1, '\n'), true)
check.equal({ w:read() }, { nil, 'the file is open for writing', 9 })
check.equal({ w:close() }, { true, 'exit', 4 })
check.equal(yue.fs.read(folder .. '/written'), 'hello 1\n')
-- A command that does not read.
w = io.popen('exec true', 'w')
local ok, text, number
check.eventually(function()
  ok, text, number = w:write(('x'):rep(1e5))
  return not ok
end)
check.that(text:find('the reader has closed its end', 1, true))
check.equal(number, 32)
w:close()
-- The handle alone is not needed to go on reading.
local lines = {}
for line in io.popen('seq 3'):lines() do
  collectgarbage()
  lines[#lines + 1] = line
end
check.equal(lines, { '1', '2', '3' })
check.that(not pcall(io.popen))
check.equal({ pcall(io.popen, 'true', 'x') }, { false, "bad argument #2 to 'popen' (invalid mode)" })
check.that(turns_during(function() check.equal(io.popen('sleep 0.2; echo done'):read(), 'done') end) > 10)
-- A fiber that waits for a command can be stopped.
check.raises('TimeoutError', nil, yue.timeout, 0.05, function() return io.popen('exec sleep 1'):read() end)

-- Named pipes: neither the opening nor the reading stops the loop.
local path = folder .. '/pipe'
check.equal(os.execute(("mkfifo '%s'"):format(path)), 0)
local reader = yue.spawn(function()
  local file = io.open(path)
  local first = file:read()
  return first, file:read('*a'), file:close()
end)
check.that(turns_during(function() yue.sleep(0.05) end) > 10)
local file = io.open(path, 'w')
check.equal(file:write('first\n'), true)
check.equal(file:write(('y'):rep(300000)), true)
check.equal(file:close(), true)
check.equal({ reader:get() }, { 'first', ('y'):rep(300000), true })
check.raises('TimeoutError', nil, yue.timeout, 0.05, io.open, path, 'w')
check.raises('TimeoutError', nil, yue.timeout, 0.05, function() return io.lines(path)() end)

-- `yue.fs` treats them likewise.
reader = yue.spawn(yue.fs.read, path)
yue.fs.write(path, 'whole')
check.equal(reader:get(), 'whole')
reader = yue.spawn(function()
  local lines = {}
  for line in yue.fs.lines(path) do lines[#lines + 1] = line end
  return lines
end)
yue.fs.append(path, 'one\ntwo\n')
check.equal(reader:get(), { 'one', 'two' })
for _, name in ipairs { 'read', 'write', 'append', 'lines' } do
  local other = folder .. '/for ' .. name
  check.equal(os.execute(("mkfifo '%s'"):format(other)), 0)
  check.raises('TimeoutError', nil, yue.timeout, 0.05, function()
    local next_line = yue.fs[name](other, 'x')
    return next_line()
  end)
end

-- Texts of several fibers do not mix.
local cat = yue.process.spawn { 'cat' }
local writers = {}
for i, letter in ipairs { 'a', 'b', 'c', 'd' } do
  writers[i] = yue.spawn(function() cat:write(letter:rep(200000) .. '\n') end)
end
local whole = 0
for _ = 1, 4 do
  local line = cat.out:line()
  if line == line:sub(1, 1):rep(200000) then whole = whole + 1 end
end
check.equal(whole, 4)
yue.all(writers)
cat:wait()

-- Devices.
file = io.open('/dev/urandom')
check.equal(#file:read(10000), 10000)
check.equal(file:close(), true)
check.equal(io.open('/dev/null'):read(), nil)
check.equal(io.open('/dev/null', 'w'):write('x'), true)

-- Files on disk, also large ones.
path = folder .. '/large'
file = io.open(path, 'w')
check.equal(file:write(('z'):rep(3e6)), true)
check.equal(file:close(), true)
file = io.open(path)
check.equal(#file:read('*a'), 3e6)
check.equal(file:read('*a'), '')
check.equal(file:read(), nil)
file:close()
check.that(not pcall(file.read, file, '*a'))
check.equal({ io.open(folder .. '/nothing') }, { nil, folder .. '/nothing: No such file or directory', 2 })
check.that(select(2, pcall(io.lines, folder .. '/nothing')):find("to 'lines' (" .. folder, 1, true))

-- The default files.
io.output(path)
io.write('hello')
check.that(io.output() ~= io.stdout)
io.close()
io.output(io.stdout)
io.input(path)
check.equal(io.read('*a'), 'hello')
io.input(io.stdin)
check.equal(io.input(), io.stdin)
check.that(not pcall(io.input, folder .. '/nothing'))
check.that(not pcall(io.output, {}))
io.input(io.popen 'echo from a command')
check.equal(io.read(), 'from a command')
io.input(io.stdin)

-- The standard input of another program.
local script = folder .. '/reads.lua'
yue.fs.write(script, [[
  print(io.read(0), io.read(), io.read('*n', '*n', '*l'))
  print(io.read(3), io.read('*L'), io.stdin:read(0))
  print(io.read('*n'), yue.stdin:line())
  for line in io.lines() do io.write('[', line, ']\n') if line == 'b' then break end end
  print(io.read('*n'), io.stdin:read('*a'), io.read('*a'), io.read(), io.read(0), io.read('*n'))
  print(pcall(io.read, '*q'))
]])
local command = 0
while arg[command - 1] do command = command - 1 end
local result = yue.process.run {
  arg[command], script, stdin = 'first\n 12 0x1F rest\nabc\n-1.5e3 left\na\nb\nno number\nlast',
}
check.equal(result.err, '')
check.equal(result.out, table.concat({
  '\tfirst\t12\t31\t rest', 'abc\t\n\t', '-1500\t left', '[a]', '[b]', 'nil\tno number', 'last\t\tnil\tnil\tnil',
  "false\tbad argument #1 to 'read' (invalid format)", '',
}, '\n'))
check.done()
