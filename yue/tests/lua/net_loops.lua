--! options: -c 3
-- The loops of a program share the ports of their listeners of streams, and Unix sockets.
local check = require 'check'
local net = yue.net
local index = yue.thread.current.index
local path = os.getenv 'XDG_RUNTIME_DIR' .. '/net-loops'

for _, addr in ipairs { 'tcp://127.0.0.1:0', 'unix://' .. path } do
  local l = net.listen(addr, function(stream)
    local line = stream:line()
    stream:write(index, ' ', line, '\n')
  end)
  local other = net.connect(l:addr())
  other:write(index, '\n')
  local server, client = other:line():match '^(%d) (%d)$'
  check.equal(tonumber(client), index)
  check.that(tonumber(server) >= 1 and tonumber(server) <= 3)
  -- The others may still be connecting.
  yue.sleep(0.2)
  l:close()
end
check.done()
