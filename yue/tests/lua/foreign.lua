--! stderr: received "HTTP/1.1 400 Bad Request\r\n"
--! stderr: received "\x1b[2J\xc1"
--! stderr: received "GET / HTTP/1.1\r\n\r\n"
-- Servers that are not yue: errors of every shape arrive, and bytes that are not msgpack-rpc are an error that shows
-- them, one line in the log, and the address stays usable.
local check = require 'check'
local raw = require 'raw'
local yue = require 'yue'

--- A server that refuses the greeting, as foreign ones do, and then answers each request by `answer(id, request)`.
local function serve(answer)
  return raw.serve(function(link)
    while true do
      local request = link:take()
      if not request then break end
      local width = ({ [0xcc] = 2, [0xcd] = 3, [0xce] = 5 })[request:byte(3)] or 1
      local id = request:sub(3, 2 + width)
      if request:find('$yue/hello', 1, true) then
        link:send('\x94\x01' .. id .. '\xa2no\xc0')
      else
        answer(link, id, request)
      end
    end
    link:close()
  end)
end

-- What the server answers with, and what arrives of it.
local shapes = {
  { '\xa4text', 'text', nil },
  { '\x92\x07\xa5seven', 'seven', nil, 7 },
  { '\x93\x07\xa5seven\x81\xa5value\x91\x01', 'seven', { 1 }, 7 },
  { '\x05', nil, 5 },
  { '\xc3', nil, true },
  { '\xc2', nil, false },
  { '\x81\xa1x\x01', nil, { x = 1 } },
  { '\x81\xa7message\xa3why', 'why', { message = 'why' } },
  { '\x91\xa4only', nil, { 'only' } },
  { '\x93\x01\xa1m\x92\x01\x02', 'm', { 1, 'm', { 1, 2 } }, 1 },
  { '\x94\x01\xa1m\x80\x05', 'm', { 1, 'm', {}, 5 }, 1 },
  { '\x93\x01\x02\x03', nil, { 1, 2, 3 }, 1 },
  { '\xc4\x02\xff\xfe', nil, '\xff\xfe' },
}
local at = 0
local address, stop = serve(function(link, id) link:send('\x94\x01' .. id .. shapes[at][1] .. '\xc0') end)
local c = yue.open(address)
for i, shape in ipairs(shapes) do
  at = i
  local e = check.raises('RPCError', shape[2], c.f)
  check.equal(e.value, shape[3], 'the value of shape ' .. i)
  if shape[4] then check.equal(e.code, shape[4]) end
  check.that(e.msg ~= '')
end
yue.conn(c):close()
stop()

-- Nonsense in the middle: the call fails at once and says what came; the next one has a new link.
local nonsense = true
address, stop = serve(function(link, id)
  if nonsense then
    nonsense = false
    link:send '\x1b[2J\xc1'
  else
    link:send('\x94\x01' .. id .. '\xc0\x2a')
  end
end)
c = yue.open(address, { timeout = 60 }, nil)
local conn = yue.conn(c)
local reasons = {}
conn:bind('close', function(reason) reasons[#reasons + 1] = reason end)
check.raises('ConnectionLostError', [[received "\x1b[2J\xc1"]], c.f)
check.equal(c.f(), 42)
check.equal(yue.open(address, { timeout = 60 }, nil).f(), 42)
check.eventually(function() return reasons[1] end)
check.contains(reasons[1], [[\x1b[2J\xc1]])
conn:close()
stop()

-- A server that has never spoken it: no mere timeout.
local links = 0
address, stop = raw.serve(function(link)
  links = links + 1
  link:take()
  link:send 'HTTP/1.1 400 Bad Request\r\n'
  link:close()
end)
c = yue.open(address, { timeout = 60 }, nil)
local e = check.raises('ConnectionLostError', 'does not speak msgpack-rpc', c.f)
check.contains(e.msg, [[received "HTTP/1.1 400 Bad Request\r\n"]])
check.that(e.retryable and links == 3)
stop()

-- One that says nothing: the timeout says how far it got.
address, stop = raw.serve(function(link) while link:take() do end link:close() end)
c = yue.open(address, { timeout = 0.3 }, nil)
check.raises('TimeoutError', "nothing answers yue's greeting", c.f)
yue.conn(c):close()
stop()

-- Strangers who send nonsense to us.
local listener = yue.listen('tcp://127.0.0.1:0', { f = function() return 'f' end })
local stranger = raw.connect(listener:addr())
stranger:send 'GET / HTTP/1.1\r\n\r\n'
check.eventually(function() return stranger:listen() end)
stranger:close()
check.equal(yue.open(listener:addr()).f(), 'f')
listener:close()
check.done()
