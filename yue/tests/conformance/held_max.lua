-- Calls that wait for a connection above `held_max` are `QueueFullError`, `retryable`; the others go out when it is up.
local check = require 'check'
return {
  needs = { 'connection', 'listener' },
  server = function() return { size = function(x) return #x end } end,
  client = function(endpoint)
    endpoint.stop()
    local c = endpoint.open { retry = true, timeout = 60, held_max = 100000 }
    local futures, text = {}, ('x'):rep(10000)
    for i = 1, 20 do futures[i] = c.async_size(text) end
    check.raises('QueueFullError', nil, c.size, text)
    check.that(not futures[1]:done())
    endpoint.start()
    local answered, refused = 0, 0
    for i = 1, 20 do
      local ok, e = futures[i]:sync()
      if ok then
        check.equal(e, 10000)
        answered = answered + 1
      else
        check.that(e:is_a 'QueueFullError', tostring(e))
        check.equal(e.retryable, true)
        refused = refused + 1
      end
    end
    check.that(answered >= 5 and answered <= 10, 'answered: ' .. answered)
    check.equal(answered + refused, 20)
  end,
}
