-- The recipe `redis` with a real server, and lua-redis over a stream of yue.
local check = require 'check'
local servers = require 'servers'
local redis = dofile 'examples/recipes/redis.lua'

local addr, server = servers.redis()
local db = redis.connect(addr)
check.equal(db:ping(), 'PONG')
check.equal(db:set('name', 'frodo'), 'OK')
check.equal(db:get 'name', 'frodo')
check.equal(db:get 'nothing', nil)
check.equal(db:set('binary', 'a\r\n\0b'), 'OK')
check.equal(db:get 'binary', 'a\r\n\0b')
check.equal(db:incrby('count', 5), 5)
check.equal(db:mget('name', 'nothing', 'count'), { 'frodo', yue.null, '5' })
check.equal(db:set('', ''), 'OK')
check.equal(db:get '', '')
check.equal(db:lrange('no list', 0, -1), {})
check.raises('RuntimeError', 'WRONGTYPE', db.lpush, db, 'name', 1)
check.equal(db:get 'name', 'frodo', 'an error is of one call')
check.raises('RuntimeError', 'unknown command', db.nosuchcommand, db)
local large = ('x'):rep(5000000)
db:set('large', large)
check.that(db:get 'large' == large)

-- Many fibers share the connection.
local fibers = {}
for i = 1, 2000 do
  fibers[i] = yue.spawn(function()
    db:set('key' .. i, i)
    return db:get('key' .. i)
  end)
end
for i, value in ipairs(yue.all(fibers)) do check.equal(value, tostring(i)) end
check.equal(db:info('clients'):match 'connected_clients:(%d+)', '1')

-- A caller that gives up harms no other.
local blocked = yue.spawn(db.blpop, db, 'queue', 0)
yue.yield()
check.raises('TimeoutError', nil, yue.timeout, 0.05, db.get, db, 'name')
local other = redis.connect(addr)
other:rpush('queue', 'job')
check.equal(blocked:get(), { 'queue', 'job' })
check.equal(db:get 'name', 'frodo')

-- Subscriptions.
local messages, subscription = redis.subscribe(addr, 'news', 'chat')
local seen = {}
local listening = yue.spawn(function()
  for message, channel in messages do
    seen[#seen + 1] = channel .. ': ' .. message
    if #seen == 3 then subscription.close() end
  end
end)
check.eventually(function() return other:pubsub('numsub', 'chat')[2] == 1 end)
other:publish('news', 'one')
other:publish('chat', 'two')
other:publish('news', 'three')
listening:get()
check.equal(seen, { 'news: one', 'chat: two', 'news: three' })

-- A close ends the calls that wait; a lost connection is made again.
blocked = yue.spawn(other.blpop, other, 'queue', 0)
yue.yield()
other:close()
check.raises('ConnectionLostError', 'closed', blocked.get, blocked)
check.raises('RuntimeError', 'closed', other.ping, other)
blocked = yue.spawn(db.blpop, db, 'queue', 0)
yue.yield()
local third = redis.connect(addr)
third:client('kill', 'type', 'normal', 'skipme', 'yes')
check.raises('ConnectionLostError', nil, blocked.get, blocked)
check.equal(db:ping(), 'PONG')

-- A server that ends in the middle of a reply, or is another one.
for answer, part in pairs { ['$10\r\nhalf'] = 'closed the connection', ['HTTP/1.1 400\r\n'] = 'this is not Redis' } do
  local sink = yue.net.listen('tcp://127.0.0.1:0', function(stream)
    stream:read()
    stream:write(answer)
  end)
  local cut = redis.connect(sink:addr())
  check.raises('Error', part, cut.get, cut, 'x')
  sink:close()
end

-- lua-redis takes a socket: a stream with the methods of LuaSocket.
-- (`require` would find this file.)
local file = '/usr/share/lua/5.1/redis.lua'
if yue.fs.exists(file) then
  local luaredis = dofile(file)
  local stream = yue.net.connect(addr)
  local client = luaredis.connect {
    socket = {
      send = function(_, text) stream:write(text) return #text end,
      receive = function(_, count) return count == '*l' and stream:line() or stream:read(count) end,
      shutdown = function() stream:close() end,
    },
  }
  check.equal(client:get 'name', 'frodo')
  check.equal(client:set('other', 'sam'), true)
  check.equal(client:mget('name', 'other'), { 'frodo', 'sam' })
  local replies = client:pipeline(function(p)
    p:incr 'count'
    p:get 'other'
  end)
  check.equal(replies, { 6, 'sam' })
  client:quit()
else
  print 'lua-redis is not installed'
end

-- A password.
db:config('set', 'requirepass', 'secret')
check.raises('RuntimeError', 'Redis: NOAUTH', function() redis.connect(addr):ping() end)
check.equal(redis.connect(addr, { password = 'secret' }):ping(), 'PONG')
check.raises('RuntimeError', 'WRONGPASS', redis.connect, addr, { password = 'x' })

local t = yue.now()
local count = 20000
fibers = {}
local pinging = redis.connect(addr, { password = 'secret' })
for i = 1, 50 do
  fibers[i] = yue.spawn(function() for _ = 1, count / 50 do pinging:ping() end end)
end
yue.all(fibers)
print(('50 fibers: %d commands a second'):format(count / (yue.now() - t)))
db:close()
third:close()
pinging:close()
server:stop()
check.done()
