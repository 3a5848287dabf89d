-- A handler knows the remaining time of its caller (`yue.deadline`), and a call back has its own.
local check = require 'check'
return {
  needs = { 'hello' },
  server = function()
    return {
      left = function() return yue.deadline() end,
      left_after = function(seconds)
        yue.sleep(seconds)
        return yue.deadline()
      end,
      left_there = function() return yue.peer().procs.left() end,
      left_in_notification = function() yue.peer().procs.hear(tostring(yue.deadline())) end,
    }
  end,
  client = function(endpoint)
    local heard
    local c = endpoint.open(nil, {
      left = function() return yue.deadline() end,
      hear = function(text) heard = text end,
    })
    check.equal(yue.deadline(), nil)
    local function between(low, seconds, high) check.that(low <= seconds and seconds <= high, tostring(seconds)) end
    between(0, c.left(), 5)
    between(50, c.timed_left(100), 100)
    between(50, c.timed_left_after(100, 0.01), 99.995)
    between(0, yue.timeout(3, c.left), 3)
    between(0, c.timed_left_there(100), 5)
    c.notify_left_in_notification()
    check.equal(check.eventually(function() return heard end), 'nil')
  end,
}
