-- Requests start in the order of their calls, notifications among them, and when handlers wait.
local check = require 'check'
return {
  needs = { 'order' },
  server = function()
    local started = {}
    return {
      note = function(n)
        started[#started + 1] = n
        if n % 3 == 0 then yue.sleep(0.001) end
        return n
      end,
      started = function() return started end,
    }
  end,
  client = function(endpoint)
    local c = endpoint.open()
    local futures, wanted = {}, {}
    for n = 1, 300 do
      wanted[n] = n
      if n % 2 == 0 then
        check.that(c.notify_note(n))
      else
        futures[#futures + 1] = c.async_note(n)
      end
      if n % 50 == 0 then yue.yield() end
    end
    for _, future in ipairs(futures) do future:get() end
    check.equal(c.started(), wanted)
  end,
}
