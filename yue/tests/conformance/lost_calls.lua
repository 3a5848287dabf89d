-- When a link is lost, calls that were sent fail and are not `retryable`; later ones go out over the next link.
local check = require 'check'
return {
  needs = { 'connection' },
  server = function()
    return {
      stay = function() yue.sleep(3600) end,
      hang_up = function() yue.peer():close() end,
      f = function(x) return x end,
    }
  end,
  client = function(endpoint)
    local later = {}
    local c
    c = endpoint.open({ timeout = 60 }, {
      __close = function()
        if not later[1] then
          for i = 1, 20 do later[i] = c.async_f(i) end
        end
        return true
      end,
    })
    check.equal(c.f(0), 0)
    local sent = {}
    for i = 1, 20 do sent[i] = c.async_stay() end
    c.notify_hang_up()
    for i = 1, 20 do
      local ok, e = sent[i]:sync()
      check.that(not ok and e:is_a 'ConnectionLostError', tostring(e))
      check.equal(e.retryable, false)
    end
    check.eventually(function() return later[20] end)
    for i = 1, 20 do check.equal({ later[i]:sync() }, { true, i }) end
  end,
}
