-- Connections that nobody can reach any more: what was queued on them is still sent, and then they are closed.
local check = require 'check'
local heard, links = {}, 0
local listener = yue.listen('tcp://127.0.0.1:0', {
  __open = function() links = links + 1 end,
  note = function(i) heard[i] = true end,
})
for i = 1, 10 do
  check.equal(yue.open(listener:addr(), { no_cache = true }, nil).notify_note(i), true)
end
-- Before any link is up.
collectgarbage()
collectgarbage()
check.eventually(function() return #heard == 10 end)
check.equal(links, 10)
check.eventually(function()
  collectgarbage()
  return #listener:connections() == 0
end, 'they are not closed')

-- One that cannot be made is closed, too.
local address = listener:addr()
listener:close()
check.equal(yue.open(address, { no_cache = true }, nil).notify_note(11), true)
collectgarbage()
check.done()
