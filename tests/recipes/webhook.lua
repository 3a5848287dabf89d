-- The recipe `webhook`: signatures, repeated events, retries.
local check = require 'check'
local webhook = dofile 'examples/recipes/webhook.lua'

local events, fails, busy = {}, 0, 0
local receive = webhook.receiver('secret', function(event, id)
  if event.slow then yue.sleep(0.3) end
  if fails > 0 then
    fails = fails - 1
    error 'the database is away'
  end
  events[#events + 1] = { event = event, id = id }
end)
local requests = {}
local server = yue.http.serve('tcp://127.0.0.1:0', {
  ['POST /events'] = function(request)
    requests[#requests + 1] = {
      body = request:body(), headers = {
        ['x-event-id'] = request:header 'x-event-id', ['x-signature'] = request:header 'x-signature',
      },
    }
    if busy > 0 then
      busy = busy - 1
      return 429, 'later', { ['retry-after'] = '0' }
    end
    return receive(request)
  end,
})
local url = server:url() .. '/events'
local quick = { pause = 0.01 }

local id = webhook.send(url, 'secret', { name = 'paid', order = 7 }, quick)
check.equal(events, { { event = { name = 'paid', order = 7 }, id = id } })

-- The same request again is known, and calls nobody.
local first = requests[1]
local answer = yue.http.post(url, first.body, { headers = first.headers })
check.equal({ answer.status, answer.body, #events }, { 200, 'known\n', 1 })

-- Changed requests are refused.
for _, change in ipairs {
  { body = first.body .. ' ' }, { ['x-event-id'] = 'other' }, { ['x-signature'] = first.headers['x-signature'] .. '0' },
  { ['x-signature'] = 't=1,v1=' .. ('0'):rep(64) }, { ['x-signature'] = 'nonsense' },
  { ['x-signature'] = first.headers['x-signature']:gsub('t=%d+', 't=%0') .. '' },
} do
  local headers = { ['x-event-id'] = first.headers['x-event-id'], ['x-signature'] = first.headers['x-signature'] }
  for name, value in pairs(change) do
    if name ~= 'body' then headers[name] = value end
  end
  answer = yue.http.post(url, change.body or first.body, { headers = headers })
  check.equal(answer.status, 401)
end
check.equal(yue.http.post(url, first.body).status, 401)
-- An old signature, even if it is right.
local long_ago = math.floor(yue.time()) - 301
answer = yue.http.post(url, '{}', {
  headers = {
    ['x-event-id'] = 'old',
    ['x-signature'] = ('t=%d,v1=%s'):format(long_ago,
      yue.crypto.hex(yue.crypto.hmac('secret', long_ago .. '.old.{}'))),
  },
})
check.equal({ answer.status, answer.body }, { 401, 'the signature is too old\n' })
check.equal(#events, 1)

-- A wrong secret is not tried again.
local count = #requests
check.raises('RuntimeError', 'status 401', webhook.send, url, 'wrong', {}, quick)
check.equal(#requests, count + 1)

-- A receiver that fails, or is busy, gets the event again, and takes it once.
fails, busy, count = 2, 1, #requests
id = webhook.send(url, 'secret', { name = 'late' }, quick)
check.equal(#requests, count + 4)
check.equal(events[2], { event = { name = 'late' }, id = id })
fails = 100
check.raises('RuntimeError', 'was not taken by', webhook.send, url, 'secret', {}, { pause = 0.001, attempts = 3 })
fails = 0
check.equal(#events, 2)

-- A sender that loses patience asks again, and the event is handled once, to its end.
id = webhook.send(url, 'secret', { slow = true }, { pause = 0.02, timeout = 0.1, attempts = 20 })
check.equal(#events, 3)
check.equal(events[3].id, id)

-- A receiver that comes later.
local address = server:addr()
server:close()
local sending = yue.spawn(webhook.send, url, 'secret', { name = 'patient' }, { pause = 0.02, attempts = 10 })
yue.sleep(0.05)
server = yue.http.serve(address, { ['POST /events'] = receive })
sending:get()
check.equal(events[4].event.name, 'patient')
sending = yue.spawn(webhook.send, 'http://127.0.0.1:1/', 'secret', {}, { pause = 60 })
yue.sleep(0.05)
sending:cancel()
check.raises('CancelledError', nil, sending.get, sending)
server:close()
check.done()
