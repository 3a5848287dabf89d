--! options: -c 2
-- Two loops share a port, and a Unix socket, with several protocols.
local check = require 'check'
local http = require 'http'
local options = { ws = true, http = { rpc = function() return true end } }
local symbols = { add = function(a, b) return a + b end }
local l = yue.listen('tcp://127.0.0.1:0', options, symbols)
local unix = yue.listen('unix://' .. os.getenv 'YUE_CERTIFICATES' .. '/../one_port_loops.socket', options, symbols)
for i = 1, 20 do
  check.equal(select(2, http.post(l:addr(), '/rpc/add', ('[%d, 1]'):format(i))), ('{"result":%d}'):format(i + 1))
  check.equal(yue.open(l:addr():gsub('tcp', 'ws'), { no_cache = true }, nil).add(i, 1), i + 1)
  check.equal(yue.open(unix:addr(), { no_cache = true }, nil).add(i, 1), i + 1)
end
-- The other may still call.
yue.sleep(0.3)
l:close()
unix:close()
check.done()
