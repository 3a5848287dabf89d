-- Of 1 000 calls from 100 fibers each gets its own answer, whatever the order of the answers.
local check = require 'check'
return {
  server = function()
    return {
      slow = function(fiber, i)
        -- Answers come in another order than requests.
        if (fiber + i) % 3 == 0 then yue.sleep(0.001 * ((fiber * 7 + i) % 5)) end
        return { fiber, i }
      end,
    }
  end,
  client = function(endpoint)
    local c = endpoint.open()
    local fibers = {}
    for fiber = 1, 100 do
      fibers[fiber] = yue.spawn(function()
        for i = 1, 10 do
          local answer = c.slow(fiber, i)
          check.that(answer[1] == fiber and answer[2] == i, 'the answer of another call')
        end
      end)
    end
    for _, fiber in ipairs(fibers) do fiber:get() end
    local stats = yue.conn(c):stats()
    check.equal({ stats.calls, stats.calls_in_flight, stats.links }, { 1000, 0, 1 })
  end,
}
