--! options: -c 2
-- Two loops share a tls:// port.
local check = require 'check'
local folder = os.getenv('YUE_CERTIFICATES') .. '/'
local options = { cert = folder .. 'server.pem', key = folder .. 'server-key.pem' }
local listener = yue.listen('tls://127.0.0.1:0', options, { ping = function() return 'pong' end })
check.contains(listener:addr(), 'tls://127.0.0.1:')
local c = yue.open(listener:addr(), { ca = folder .. 'ca.pem', no_cache = true }, nil)
for _ = 1, 20 do check.equal(c.ping(), 'pong') end
-- The other may still call.
yue.sleep(0.3)
listener:close()
check.done()
