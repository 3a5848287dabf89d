-- A refused client whose `__close` returns true tries again; its waiting calls go out once it is granted.
local check = require 'check'
return {
  needs = { 'connection' },
  server = function()
    return {
      __accept = function(conn) return conn.procs.password() == 'good' end,
      f = function(x) return x end,
    }
  end,
  client = function(endpoint)
    local passwords, reasons = { 'bad', 'worse', 'good' }, {}
    local c = endpoint.open({ timeout = 60 }, {
      password = function() return table.remove(passwords, 1) end,
      __close = function(_, reason)
        reasons[#reasons + 1] = reason
        return #reasons < 5
      end,
    })
    local futures = {}
    for i = 1, 20 do futures[i] = c.async_f(i) end
    for i, answer in ipairs(yue.all(futures)) do check.equal(answer, i) end
    check.equal({ #reasons, #passwords }, { 2, 0 })
    check.contains(reasons[1], 'not granted')
  end,
}
