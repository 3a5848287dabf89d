-- An `__accept` that takes too long is refused; others are granted meanwhile.
local check = require 'check'
return {
  needs = { 'connection' },
  server = function()
    return {
      __accept = function(conn)
        if conn.procs.is_slow() then yue.sleep(3600) end
        return true
      end,
      f = function() return 'f' end,
    }, { handshake_timeout = 0.3 }
  end,
  client = function(endpoint)
    local slow = endpoint.open(nil, { is_slow = function() return true end, __close = function() return false end })
    local future = slow.async_f()
    local quick = endpoint.open(nil, { is_slow = function() return false end })
    check.equal(quick.f(), 'f')
    local e = check.raises('Error', nil, future.get, future)
    check.that(e:is_a 'NotGrantedError', tostring(e))
    check.equal(e.retryable, true)
    check.equal(quick.f(), 'f')
  end,
}
