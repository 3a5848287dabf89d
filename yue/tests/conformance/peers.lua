-- A handler has its caller as peer, and so have fibers that it starts; a field of the peer stays for its life.
local check = require 'check'
return {
  server = function()
    return {
      remember = function(x) yue.peer().note = x end,
      recall = function() return yue.peer().note end,
      from_fiber = function()
        return yue.spawn(function()
          yue.sleep(0.001)
          return yue.peer().procs.answer 'deep'
        end):get()
      end,
      through_future = function() return yue.peer().procs.async_answer('f'):get() end,
      through_timeout = function() return yue.timeout(30, function() return yue.peer().procs.answer 't' end) end,
      same = function()
        local peer = yue.peer()
        yue.sleep(0.001)
        return peer == yue.peer()
      end,
    }
  end,
  client = function(endpoint)
    check.equal(yue.peer(), nil)
    local c = endpoint.open(nil, { answer = function(x) return x .. '!' end })
    local d = endpoint.open(nil, { answer = function(x) return x .. '?' end })
    check.equal({ c.from_fiber(), d.from_fiber() }, { 'deep!', 'deep?' })
    check.equal({ c.through_future(), c.through_timeout(), c.same() }, { 'f!', 't!', true })
    c.remember 'c'
    d.remember 'd'
    collectgarbage()
    check.equal({ c.recall(), d.recall() }, { 'c', 'd' })
    check.equal(yue.peer(), nil)
  end,
}
