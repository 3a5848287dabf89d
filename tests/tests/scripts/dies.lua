-- A server that is killed, without a word, in the middle of a call.
local ffi = require 'ffi'
local yue = require 'yue'
ffi.cdef 'int getpid(void); int kill(int, int);'

local service, calls = {}, 0

function service.count()
  calls = calls + 1
  if calls == 2000 then ffi.C.kill(ffi.C.getpid(), 9) end
  return calls
end

local listener = yue.listen(yue.args[1], service)
io.stdout:write('serving at ' .. listener:addr() .. '\n')
io.stdout:flush()
