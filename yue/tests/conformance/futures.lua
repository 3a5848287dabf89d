-- An asynchronous call reports its outcome once, whatever it is: results, an error, a timeout, a cancel.
local check = require 'check'
return {
  logs = { 'the handler of fail failed' },
  server = function()
    local over = yue.emitter()
    return {
      echo = function(x) return x end,
      fail = function() error('failed', 0) end,
      forever = function() over:wait 'over' end,
      release = function() over:emit 'over' end,
    }
  end,
  client = function(endpoint)
    local c = endpoint.open()
    local outcomes = {}
    local function heard(name) return function(...) outcomes[#outcomes + 1] = { name, ... } end end
    local future = c.async_echo(7):on(heard 'echo')
    check.equal({ future:sync() }, { true, 7 })
    check.equal({ future:sync() }, { true, 7 })
    check.that(future:done() and not future:cancel())
    check.equal(check.raises('RuntimeError', nil, function() c.async_fail():on(heard 'fail'):get() end).msg, 'failed')
    check.raises('TimeoutError', nil, function() c.timed_async_forever(0.02):on(heard 'timeout'):get() end)
    future = c.async_forever():on(heard 'cancel')
    yue.sleep(0.01)
    check.that(not future:done() and future:cancel() and future:done())
    check.raises('CancelledError', nil, future.get, future)
    check.eventually(function() return #outcomes == 4 end)
    check.equal(outcomes[1], { 'echo', true, 7 })
    for i, name in ipairs { 'fail', 'timeout', 'cancel' } do
      check.equal({ outcomes[i + 1][1], outcomes[i + 1][2] }, { name, false })
    end
    local futures = {}
    for i = 1, 200 do futures[i] = c.async_echo(i) end
    for i, answer in ipairs(yue.all(futures)) do check.that(answer == i) end
    check.equal(#outcomes, 4)
    c.release()
  end,
}
