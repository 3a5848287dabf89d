-- `conn:latest` keeps only the newest message for each key while there is no room, and sends it then.
local check = require 'check'
return {
  needs = { 'order', 'large', 'connection' },
  server = function()
    return {
      flood = function(first, last)
        local peer, text = yue.peer(), ('x'):rep(100000)
        for i = first, last do
          peer:latest('a', 'position', 'a', i, text)
          peer:latest('b', 'position', 'b', i)
        end
      end,
    }
  end,
  client = function(endpoint)
    local heard = { a = {}, b = {} }
    local c = endpoint.open({ timeout = 60 }, {
      position = function(key, i) table.insert(heard[key], i) end,
    })
    -- A server in another loop has room whenever this loop reads, so this loop is busy, longer each time.
    local last, microseconds = 0, 1000
    repeat
      c.notify_flood(last + 1, last + 100)
      last, microseconds = last + 100, microseconds * 2
      yue.sleep(0.001)
      local over = yue.util.time.now() + microseconds
      repeat until yue.util.time.now() > over
      for _, key in ipairs { 'a', 'b' } do
        check.eventually(function() return heard[key][#heard[key]] == last end)
        for i = 2, #heard[key] do check.that(heard[key][i] > heard[key][i - 1]) end
      end
    until #heard.a < last and #heard.b < last
  end,
}
