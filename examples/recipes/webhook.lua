-- Webhooks: events that one server sends to another by HTTP, signed with a secret that both know.
--
--   local webhook = require 'webhook'
--   yue.http.serve('tcp://0.0.0.0:8080', {                      -- the receiver
--     ['POST /events'] = webhook.receiver(secret, function(event, id) print(id, event.name) end),
--   })
--   webhook.send('https://example.org/events', secret, { name = 'paid', order = 7 })  -- the sender
--
-- The header `x-signature` is `t=SECONDS,v1=HEX`: the HMAC-SHA256 of `SECONDS.ID.BODY`. A signature is good for five
-- minutes, so nobody can send a recorded event again later; within them the receiver knows the id.
local yue = require 'yue'
local crypto = yue.crypto

local webhook = {}

-- Seconds for which a signature is good; the clocks of both sides may differ by less.
local AGE_MAX = 300
-- Ids that a receiver remembers.
local IDS_MAX = 100000

local function sign(secret, seconds, id, body)
  return crypto.hex(crypto.hmac(secret, ('%d.%s.%s'):format(seconds, id, body)))
end

-- -- The receiver ----------------------------------------------------------------------------------------------------

--- Remembers the ids of events that were taken, for twice the age of a signature.
local function new_memory()
  local memory, recent, older, count, since = {}, {}, {}, 0, yue.now()
  function memory:has(id)
    return recent[id] or older[id]
  end
  function memory:add(id)
    if yue.now() - since > AGE_MAX * 2 or count >= IDS_MAX then
      recent, older, count, since = {}, recent, 0, yue.now()
    end
    recent[id], count = true, count + 1
  end
  return memory
end

--- A handler for a route of `yue.http.serve`: calls `fn(event, id)` once for each event that was signed with the
--- secret. If `fn` raises, the sender gets the status 500, and sends the event again.
function webhook.receiver(secret, fn)
  local taken, running = new_memory(), {}
  return function(request)
    local body, id = request:body(), request:header 'x-event-id' or ''
    local seconds, signature = (request:header 'x-signature' or ''):match '^t=(%d+),v1=(%x+)$'
    seconds = tonumber(seconds)
    -- `equal` takes as long for a wrong signature as for a right one, so nobody can guess it digit by digit.
    if not seconds or not crypto.equal(sign(secret, seconds, id, body), signature:lower()) then
      return 401, 'the signature is wrong\n'
    end
    if math.abs(yue.time() - seconds) > AGE_MAX then return 401, 'the signature is too old\n' end
    if taken:has(id) then return 200, 'known\n' end
    -- The sender lost patience; whether the event is taken is not known yet.
    if running[id] then return 503, 'this event is being handled\n', { ['retry-after'] = '1' } end
    running[id] = true
    local ok, e = pcall(function() fn(yue.json.decode(body), id) end)
    running[id] = nil
    if not ok then error(e, 0) end
    taken:add(id)
    return 200, 'taken\n'
  end
end

-- -- The sender ------------------------------------------------------------------------------------------------------

--- The seconds to wait after an attempt: twice as long each time, and not the same for all senders. (Without a seed,
--- `math.random` has the same numbers in all of them.)
local function pause(attempt, options)
  return (options.pause or 1) * 2 ^ (attempt - 1) * (0.5 + crypto.random(1):byte() / 255)
end

--- Sends an event, and returns its id. Tries again when the receiver cannot be reached, is busy (429) or has failed
--- (5xx). `options`: `attempts` (8), `pause` (seconds, 1), `timeout` of each attempt (10), `http`, further options of
--- the request.
function webhook.send(url, secret, event, options)
  options = options or {}
  local body, id = yue.json.encode(event), crypto.hex(crypto.random(16))
  local attempts, last = options.attempts or 8, nil
  for attempt = 1, attempts do
    local seconds = math.floor(yue.time())
    local request = {}
    for name, value in pairs(options.http or {}) do request[name] = value end
    request.timeout = options.timeout or 10
    request.headers = {
      ['content-type'] = 'application/json', ['x-event-id'] = id,
      ['x-signature'] = ('t=%d,v1=%s'):format(seconds, sign(secret, seconds, id, body)),
    }
    local ok, answer = pcall(yue.http.post, url, body, request)
    if ok and answer.status < 300 then return id end
    local wait = pause(attempt, options)
    if not ok then
      -- A cancel of this fiber, or a mistake in the arguments, is not the receiver's.
      if not (answer:is_a 'TransportError' or answer:is_a 'TimeoutError') then error(answer, 0) end
      last = tostring(answer)
    else
      last = 'status ' .. answer.status
      if answer.status < 500 and answer.status ~= 429 then break end
      wait = math.max(wait, math.min(tonumber(answer.headers['retry-after']) or 0, 3600))
    end
    if attempt < attempts then yue.sleep(wait) end
  end
  error(yue.errors.RuntimeError.new(('the event %s was not taken by %s: %s'):format(id, url, last)), 0)
end

return webhook
