--! stderr: cannot accept connections
-- A listener of streams in a process that has no descriptors left: its clients wait, and are served later.
local check = require 'check'
local net, ffi = yue.net, require 'ffi'

ffi.cdef [[
  typedef struct { unsigned long soft, hard; } yue_test_limit;
  int getrlimit(int resource, yue_test_limit *limit);
  int setrlimit(int resource, const yue_test_limit *limit);
]]
local FILES = 7
local limit = ffi.new 'yue_test_limit'
check.equal(ffi.C.getrlimit(FILES, limit), 0)
limit.soft = 128
check.equal(ffi.C.setrlimit(FILES, limit), 0)

local l = net.listen('tcp://127.0.0.1:0', function(stream) stream:write 'hello\n' end)
local waiting = net.listen 'tcp://127.0.0.1:0'
local first = net.connect(l:addr())
check.equal(first:line(), 'hello')
check.equal(first:line(), nil)

local clients, files = {}, {}
for i = 1, 4 do clients[i] = net.connect(waiting:addr()) end
-- What the collector would close later would make room.
collectgarbage()
collectgarbage()
while true do
  local file = io.open '/dev/null'
  if not file then break end
  files[#files + 1] = file
end
check.equal(check.raises('Error', 'raise the limit of open files', net.connect, l:addr()).code, 'EMFILE')
local accepting = yue.spawn(waiting.accept, waiting)
check.raises('TimeoutError', nil, yue.timeout, 0.2, accepting.get, accepting)
first:close()
check.equal(accepting:get():peer_addr(), clients[1]:addr())
clients[1]:close()
accepting = yue.spawn(waiting.accept, waiting)
for _, file in ipairs(files) do file:close() end
local streams = { accepting:get() }
for i = 2, 3 do streams[i] = waiting:accept() end
for i = 1, 3 do streams[i]:write('now\n') end
for i = 2, 4 do check.equal(clients[i]:line(), 'now') end
check.equal(net.connect(l:addr()):line(), 'hello')
l:close()
check.done()
