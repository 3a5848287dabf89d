-- `false`, `nil` or an error in `__accept` refuses: waiting calls are `NotGrantedError`, and none has run.
local check = require 'check'
return {
  needs = { 'connection' },
  logs = { '__accept failed' },
  server = function()
    return {
      __accept = function(conn)
        local verdict = conn.procs.verdict()
        if verdict == 'error' then error('no entry', 0) end
        if verdict == 'false' then return false end
        if verdict == 'true' then return true end
      end,
      f = function() yue.peer().procs.ran() end,
    }
  end,
  client = function(endpoint)
    local ran = false
    for _, verdict in ipairs { 'false', 'nil', 'error', 'true' } do
      local c = endpoint.open(nil, { verdict = function() return verdict end, ran = function() ran = true end })
      if verdict == 'true' then
        c.f()
        check.that(ran)
      else
        local e = check.raises('NotGrantedError', verdict == 'error' and 'no entry' or nil, c.f)
        check.equal(e.retryable, true)
        check.raises('NotGrantedError', nil, function() c.async_f():get() end)
        check.equal(ran, false)
      end
    end
    -- The client has the last word.
    local accepted
    local c = endpoint.open(nil, {
      verdict = function() return 'true' end,
      __accept = function(_, value) accepted = value return false end,
      ran = function() error 'it ran' end,
    })
    check.raises('NotGrantedError', nil, c.f)
    check.equal(accepted, true)
  end,
}
