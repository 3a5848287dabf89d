-- What a client says before it closes, or before its program ends, arrives and is started: notifications too, and also
-- if they arrive in the same read as the end.
local check = require 'check'
local yue = require 'yue'

local path = os.tmpname()
os.remove(path)

for _, address in ipairs { 'tcp://127.0.0.1:0', 'unix://' .. path, 'thread://parting' } do
  local hits, reasons = 0, {}
  local listener = yue.listen(address, {
    hit = function()
      hits = hits + 1
      if hits % 10 == 0 then yue.sleep(0.01) end
    end,
    __close = function(_, reason) reasons[#reasons + 1] = tostring(reason) end,
  })
  for round, why in ipairs { false, 'bye' } do
    local conn = yue.socket(listener:addr(), { no_cache = true }, nil)
    conn.procs.hit()
    hits = 0
    for _ = 1, 100 do assert(conn.procs.notify_hit()) end
    conn:close(why or nil)
    check.eventually(function() return #reasons == round end)
    check.equal(hits, 100, address)
    check.equal(reasons[round]:find('bye', 1, true) ~= nil, why == 'bye', reasons[round])
  end
  listener:close()
end

-- A program that ends sends what it has written, more than the kernel takes at once.
local speaker = yue.thread('speaker', function()
  local text, path = ('x'):rep(20000), os.tmpname()
  os.remove(path)
  local listener = yue.listen('unix://' .. path, {
    go = function()
      for _ = 1, 25 do assert(yue.peer().procs.notify_take(text)) end
      yue.thread.current:exit()
    end,
  })
  yue.thread.current:import { address = function() return listener:addr() end }
end)
local taken, reason = 0, nil
local options = { no_cache = true, reconnect = false }
local conn = yue.socket(speaker.procs.address(), options, { take = function(text) taken = taken + #text end })
conn:bind('close', function(why) reason = why end)
conn.procs.notify_go()
check.eventually(function() return reason end)
check.equal(taken, 500000, reason)
check.done()
