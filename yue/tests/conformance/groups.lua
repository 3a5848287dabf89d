-- A group notifies and calls its members; they leave when their connections end.
local check = require 'check'
return {
  needs = { 'connection', 'listener', 'order' },
  logs = { 'the handler of mood failed' },
  server = function()
    local room = yue.group()
    return {
      enter = function(name) return room:join(yue.peer(), name) end,
      leave = function() return room:leave(yue.peer()) end,
      say = function(text) return room.notify_say(text) end,
      moods = function()
        local list = {}
        for i, answer in ipairs(room.mood()) do list[i] = { answer[2], answer[2] and answer[3] or answer[3].type } end
        return list
      end,
      count = function() return #room end,
    }
  end,
  client = function(endpoint)
    local observer, heard, clients = endpoint.open(), {}, {}
    for i, name in ipairs { 'frodo', 'sam', 'pippin' } do
      heard[i] = {}
      clients[i] = endpoint.open(nil, {
        say = function(text) table.insert(heard[i], text) end,
        mood = function() if name == 'sam' then error('hungry', 0) end return name end,
      })
      check.equal(clients[i].enter(name), true)
    end
    check.equal({ observer.count(), observer.say 'one', observer.say 'two' }, { 3, 3, 3 })
    for i = 1, 3 do
      check.eventually(function() return #heard[i] == 2 end)
      check.equal(heard[i], { 'one', 'two' })
    end
    check.equal(observer.moods(), { { true, 'frodo' }, { false, 'RuntimeError' }, { true, 'pippin' } })
    check.equal(clients[1].leave(), true)
    yue.conn(clients[2]):close()
    check.eventually(function() return observer.count() == 1 end)
    check.equal({ observer.say 'three', observer.moods() }, { 1, { { true, 'pippin' } } })
    check.eventually(function() return #heard[3] == 3 end)
    check.equal({ #heard[1], #heard[2] }, { 2, 2 })
  end,
}
