-- Plain msgpack-rpc without a greeting (`legacy`): calls both ways, notifications, errors; no functions.
local check = require 'check'
return {
  logs = { 'the handler of fail failed' },
  server = function()
    return {
      add = function(a, b) return a + b end,
      several = function() return 1, nil, 3 end,
      nothing = function() end,
      fail = function() error('failed', 0) end,
      ask = function(x) return yue.peer().procs.answer(x) end,
      make = function() return function() end end,
      left = function() return yue.deadline() == nil end,
    }
  end,
  client = function(endpoint)
    local c = endpoint.open({ legacy = true }, { answer = function(x) return x + 1 end })
    check.equal(c.add(1, 2), 3)
    check.equal(c.ask(1), 2)
    check.equal(c.left(), true)
    check.equal(c.nothing(), nil)
    local several = c.several()
    check.equal({ several[1], several[2], several[3] }, { 1, nil, 3 })
    local e = check.raises('RuntimeError', 'failed', c.fail)
    check.equal(e.retryable, false)
    check.raises('NoMethodError', nil, c.missing)
    check.raises('ArgumentError', nil, c.add, function() end)
    check.raises('Error', nil, c.make)
    check.raises('TimeoutError', nil, c.timed_ask, 0, 1)
    check.equal(c.add(2, 3), 5)
  end,
}
