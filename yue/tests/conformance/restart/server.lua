-- The server that is killed and started again: executes numbered calls, and writes each number into a journal.
--
-- Arguments: folder, transport, and address (of the first server, if another one was there).
local here = debug.getinfo(1, 'S').source:match '^@(.*)/' or '.'
package.path = here .. '/../lib/?.lua;' .. package.path
local ffi = require 'ffi'
ffi.cdef [[
  int open(const char *path, int flags, int mode);
  long write(int fd, const void *bytes, size_t size);
  int getpid();
]]

local folder, address, options = yue.args.folder, yue.args.address, nil
if yue.mode == 'thread' then
  address = 'thread://restart'
elseif yue.args.transport then
  for _, transport in ipairs(require 'transports') do
    if transport.scheme == yue.args.transport then
      options = transport.listen
      address = address or transport.address()
    end
  end
end

-- One write appends one line, whoever else writes and whenever this process is killed.
local APPEND = 0x1 + 0x40 + 0x400 -- O_WRONLY, O_CREAT, O_APPEND
local function append(file)
  local fd = ffi.C.open(folder .. '/' .. file, ffi.cast('int', APPEND), ffi.cast('int', 384))
  assert(fd >= 0, 'the journal cannot be opened')
  return function(line) assert(ffi.C.write(fd, line .. '\n', #line + 1) == #line + 1) end
end
local execute = append 'journal'
append 'pids'(tostring(ffi.C.getpid()))

local crash = yue.emitter()
local listener = yue.listen(address, options, {
  -- Calls wait until the client has answered.
  __accept = function(conn) return conn.procs.confirm(true) end,
  work = function(id)
    execute(tostring(id))
    return id
  end,
  nap = function(id)
    execute(tostring(id))
    yue.sleep(0.001 * (id % 20))
    return id
  end,
  big = function(id, text)
    execute(tostring(id))
    return id, text
  end,
  ask = function(id)
    execute(tostring(id))
    return yue.peer().procs.confirm(id)
  end,
  pass = function(id, f)
    execute(tostring(id))
    return f(id)
  end,
  crash = function() crash:emit 'crash' end,
})
if yue.mode == 'thread' then
  -- A thread whose script raises ends at once, in the middle of its handlers.
  crash:wait 'crash'
  error('the thread crashes', 0)
elseif address ~= 'stdio://' then
  print('serving at ' .. listener:addr())
end
