-- `yue -w`: changed files are reloaded on all loops, with one line for each reload or failure.
local check = require 'check'
local folder = yue.fs.temp()
local exe = io.popen 'readlink /proc/$PPID/exe':read '*l'
local function write(name, text)
  -- As editors do it: a new file takes the place of the old one.
  yue.fs.write(folder .. '/.new', text)
  yue.fs.rename(folder .. '/.new', folder .. '/' .. name)
end

yue.fs.mkdir(folder .. '/lib')
yue.fs.mkdir(folder .. '/more')
write('lib/code.lua', 'return { version = 1 }')
write('symbols.lua', 'function version() return 1 end')
write('main.lua', ([[
package.path = %q .. package.path
local last
local listener = yue.listen('tcp://127.0.0.1:0', %q)
local timer = yue.timer(0, 0.005)
timer:bind('tick', function()
  local now = require 'code'.version .. ' ' .. listener.namespace.version()
  if now ~= last then print(yue.thread.current.index .. ': ' .. now) end
  last = now
end)
]]):format(folder .. '/lib/?.lua;', folder .. '/symbols.lua'))

for _, loops in ipairs { 1, 3 } do
  local child = yue.process.spawn { exe, '-w', '-c', tostring(loops), folder .. '/main.lua',
    stdout = 'pipe', stderr = 'pipe', env = { YUE_LOG = false, YUE_LOG_FORMAT = false } }
  local function from_all(text)
    local seen = {}
    for i = 1, loops do
      local line = child.out:line()
      check.contains(line, ': ' .. text)
      seen[line] = true
    end
    for i = 1, loops do check.that(seen[i .. ': ' .. text], text) end
  end
  local function says(...)
    local line = child.err:line()
    for _, part in ipairs { ... } do check.contains(line, part) end
  end
  yue.timeout(30, function()
    from_all '1 1'
    write('lib/code.lua', 'return { version = 2 }')
    says('yue info: ', 'reloaded code: version 2')
    from_all '2 1'
    write('symbols.lua', 'function version() return 2 end')
    says('reloaded ' .. folder .. '/symbols.lua: version 3')
    from_all '2 2'
    write('lib/code.lua', 'return {')
    says('yue error: ', 'nothing was reloaded: ', 'code.lua:1:')
    write('lib/code.lua', 'return { version = 2 }')
    says('yue info: ', 'the files are again those that the program runs')
    write('lib/code.lua', 'return { version = 3 }')
    says 'reloaded code: version 4'
    from_all '3 2'
    local main = yue.fs.read(folder .. '/main.lua')
    write('main.lua', main .. '\n-- changed')
    says('yue warn: ', folder .. '/main.lua itself has changed: restart the program to apply it')
    -- Written in place, in parts.
    yue.fs.write(folder .. '/lib/code.lua', 'return ')
    yue.fs.append(folder .. '/lib/code.lua', '{ version = 1 }')
    says 'reloaded code: version 5'
    from_all '1 2'
    -- A module in a folder that was not watched before.
    write('more/extra.lua', 'return 1')
    write('symbols.lua', ("package.path = %q .. package.path function version() return require 'extra' end"):format(
      folder .. '/more/?.lua;'))
    says 'version 6'
    from_all '1 1'
    write('more/extra.lua', 'return 5')
    says 'reloaded extra: version 7'
    from_all '1 5'
    write('symbols.lua', 'function version() return 1 end')
    says 'version 8'
    from_all '1 1'
    -- A folder that is removed and created again, twice: another tool writes it anew.
    for round = 9, 10 do
      yue.fs.remove(folder .. '/lib', { recursive = true })
      says('yue error: ', 'nothing was reloaded: ')
      yue.fs.mkdir(folder .. '/lib')
      write('lib/code.lua', ('return { version = %d }'):format(round))
      says('reloaded code: version ' .. round)
      from_all(round .. ' 1')
    end
    write('lib/code.lua', 'return { version = 1 }')
    says 'reloaded code: version 11'
    from_all '1 1'
    -- It is renamed away, and another one gets its name.
    yue.fs.rename(folder .. '/lib', folder .. '/old')
    says('yue error: ', 'nothing was reloaded: ')
    yue.fs.mkdir(folder .. '/lib')
    write('lib/code.lua', 'return { version = 12 }')
    says 'reloaded code: version 12'
    from_all '12 1'
    yue.fs.remove(folder .. '/lib', { recursive = true })
    yue.fs.rename(folder .. '/old', folder .. '/lib')
  end)
  child:kill()
  child:wait()
end

-- The watch does not keep a program running.
local result = yue.process.run { exe, '-w', '-e', 'print "done"', timeout = 30 }
check.equal({ result.code, result.out, result.err }, { 0, 'done\n', '' })
check.done()
