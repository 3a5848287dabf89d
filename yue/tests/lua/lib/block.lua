-- Blocks the loop of a thread, so that it reads nothing, until the test releases it by creating a file.
local check = require 'check'
local block = {}
block.__index = block

--- For the thread: says that it begins, and waits for the file without letting the loop run.
function block.hang(path)
  local ffi = require 'ffi'
  ffi.cdef 'int access(const char *, int); int usleep(unsigned);'
  assert(io.open(path .. '.begun', 'w')):close()
  for _ = 1, 60000 do
    if ffi.C.access(path, 0) == 0 then return end
    ffi.C.usleep(1000)
  end
end

--- For the test: a block that can be used several times, for one thread at a time.
function block.new()
  local path = os.tmpname()
  os.remove(path)
  return setmetatable({ path = path }, block)
end

--- Blocks the thread with these procedures, among which `hang` is; returns when it is blocked.
function block:begin(procs)
  os.remove(self.path)
  procs.notify_hang(self.path)
  check.eventually(function() return os.remove(self.path .. '.begun') end)
end

function block:release()
  assert(io.open(self.path, 'w')):close()
end

--- Removes the file, once the thread has ended.
function block:close()
  os.remove(self.path)
end

return block
