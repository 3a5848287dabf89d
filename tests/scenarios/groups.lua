-- A group's members hear its messages in order, once each; those that stay hear the last one.
local yue = require 'yue'
local sim = require 'yue.sim'

local fault, heard = nil, {}
yue.listen('tcp://0.0.0.0:9000', {
  fault = function(text) sim.note(text) fault = text end,
  last = function(name) heard[name] = true end,
})

local function server()
  local room = yue.group 'room'
  yue.listen('tcp://0.0.0.0:7000', { enter = function() return room:join(yue.peer()) end })
  for number = 1, math.huge do
    room.notify_say(number)
    yue.sleep(0.01 + math.random() * 0.05)
  end
end

local function client(name)
  local journal = yue.open('tcp://scenario:9000', { retry = true }, nil)
  local last, link = 0, 0
  local server
  server = yue.open('tcp://server:7000', { retry = true, timeout = 5 }, {
    say = function(number)
      -- A server that has restarted counts from 1 again, on another link.
      if number <= last then journal.fault(('%s heard %d after %d'):format(name, number, last)) end
      last = number
    end,
    __open = function() link, last = link + 1, 0 end,
  })
  local entered
  while true do
    if entered ~= link then
      local now = link
      if pcall(server.enter) then entered = now end
    end
    local before = last
    yue.sleep(1)
    -- In the quiet end of the run the messages must come.
    if yue.time() > 0 and last > before then journal.notify_last(name) end
  end
end

sim.host('server', server)
for i = 1, 3 do sim.host('c' .. i, client, 'c' .. i) end
sim.chaos(3, { hosts = { 'server', 'c1', 'c2', 'c3' }, seconds = 30 })
sim.at(60, function() heard = {} end)
sim.always('each message is heard once, in order', function() return not fault, fault end)
sim.at(61, function()
  sim.eventually('all hear the group again', 120, function() return heard.c1 and heard.c2 and heard.c3 end)
end)
