-- Notifications arrive, expect nothing and keep their order; unknown ones are ignored.
local check = require 'check'
return {
  logs = { 'the handler of fail failed' },
  needs = { 'order' },
  server = function()
    local heard = {}
    return {
      note = function(...) heard[#heard + 1] = { ... } end,
      fail = function() error 'nobody hears this' end,
      heard = function() return heard end,
      answer = function(n) for i = 1, n do yue.peer().procs.notify_tick(i) end end,
    }
  end,
  client = function(endpoint)
    local ticks = {}
    local c = endpoint.open(nil, { tick = function(i) ticks[#ticks + 1] = i end })
    check.equal({ c.notify_note 'a' }, { true })
    check.equal({ c.notify_missing() }, { true })
    check.equal({ c.notify_fail() }, { true })
    check.equal({ c.timed_notify_note(30, 'b') }, { true })
    check.equal({ c.async_notify_note('c', nil, 3):sync() }, { true, true })
    check.equal(c.heard(), { { 'a' }, { 'b' }, { 'c', nil, 3 } })
    check.raises('ArgumentError', 'cannot', c.notify_note, coroutine.create(print))
    c.answer(200)
    check.eventually(function() return #ticks == 200 end)
    for i = 1, 200 do check.that(ticks[i] == i) end
  end,
}
