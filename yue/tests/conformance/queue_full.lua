-- Above `output_max` an asynchronous call is `QueueFullError`, `retryable`, and a call waits for room.
local check = require 'check'
return {
  needs = { 'when_full', 'large' },
  server = function() return { size = function(x) return #x end } end,
  client = function(endpoint)
    local c = endpoint.open { timeout = 60, output_high = 100000, output_max = 500000 }
    check.equal(c.size '', 0)
    local text = ('x'):rep(100000)
    local futures, waiting, refused = {}, {}, 0
    -- In one turn of the loop nothing can be written but what the kernel takes at once.
    for i = 1, 200 do futures[i] = c.async_size(text) end
    for i = 1, 20 do waiting[i] = yue.spawn(c.size, text) end
    for i = 1, 200 do
      local ok, e = futures[i]:sync()
      if not ok then
        check.that(e:is_a 'QueueFullError', tostring(e))
        check.equal(e.retryable, true)
        refused = refused + 1
      end
    end
    check.that(refused > 0 and refused < 200, 'refused: ' .. refused)
    for i = 1, 20 do check.equal(waiting[i]:get(), 100000) end
    check.equal(yue.conn(c):stats().links, 1)
  end,
}
