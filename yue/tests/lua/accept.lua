--! stderr: __accept failed, for tcp://127.0.0.1:
-- __accept: calls both ways inside it, others held; refusal; what is granted arrives at the client's own.
local check = require 'check'
local events = {}
local function event(x) events[#events + 1] = x end

local symbols = {
  __accept = function(conn)
    event 'accepting'
    conn.user = conn.procs.who()
    yue.sleep(0.01)
    event 'granting'
    return { user = conn.user, hello = function(x) return 'hello ' .. x end }
  end,
  f = function() event 'f' return yue.peer().user end,
}
local listener = yue.listen('tcp://127.0.0.1:0', symbols)
local inside
local granted
local c = yue.open(listener:addr(), nil, {
  who = function() return 'sam' end,
  __accept = function(conn, value)
    event 'client'
    granted = value
    inside = conn.procs.f() -- goes out at once
  end,
})
local held = c.async_f()
c.notify_f()
check.equal(c.f(), 'sam')
check.equal(held:get(), 'sam')
check.equal(events[1] .. ' ' .. events[2] .. ' ' .. events[3] .. ' ' .. events[4], 'accepting granting client f')
check.equal(inside, 'sam')
check.equal(granted.user, 'sam')
check.equal(granted.hello('function'), 'hello function')
local objects = listener:connections()
check.equal(#objects, 1)
check.equal(objects[1].user, 'sam')
check.that(objects[1]:connected() and yue.conn(c):connected())
yue.conn(c):close()

-- The client has the last word: false, or an error, closes.
for _, last_word in ipairs { function() return false end, function() error('I would rather not') end } do
  local d = yue.open(listener:addr(), nil, { who = function() return 'x' end, __accept = last_word })
  check.raises('NotGrantedError', nil, function() d.f() end)
  yue.conn(d):close()
end

-- Refusal: false, nil, or an error; held calls fail, and each attempt asks again.
local attempts = 0
for _, verdict in ipairs {
  function() attempts = attempts + 1 return false end,
  function() attempts = attempts + 1 end,
  function() attempts = attempts + 1 error('no entry') end,
} do
  local refusing = yue.listen('tcp://127.0.0.1:0', { __accept = verdict, f = function() event 'never' end })
  local d = yue.open(refusing:addr(), { no_cache = true }, nil)
  local e = check.raises('NotGrantedError', nil, function() d.f() end)
  check.that(e.retryable)
  check.raises('NotGrantedError', nil, function() d.async_f():get() end)
  refusing:close()
end
check.equal(attempts, 6)
check.that(not table.concat(events, ' '):find('never'))

-- A client that is refused may try again with something better, and its calls wait meanwhile.
local passwords = { 'bad', 'worse', 'good' }
local gate = yue.listen('tcp://127.0.0.1:0', {
  __accept = function(conn) return conn.procs.password() == 'good' end,
  f = function() return 'in' end,
})
local closes = {}
local d = yue.open(gate:addr(), { timeout = 60 }, {
  password = function() return table.remove(passwords, 1) end,
  __close = function(_, reason) closes[#closes + 1] = reason return #closes < 5 end,
})
check.equal(d.f(), 'in')
check.equal(#closes, 2)
check.contains(closes[1], 'not granted')
yue.conn(d):close()
gate:close()

-- No __accept: granted. Its result may be any true value.
local value
for _, grant in ipairs { true, 5, 'text', { 1, 2 } } do
  local simple = yue.listen('tcp://127.0.0.1:0', {
    __accept = function() return grant end,
    f = function() return 1 end,
  })
  local e = yue.open(simple:addr(), nil, { __accept = function(_, given) value = given return true end })
  check.equal(e.f(), 1)
  check.equal(value, grant)
  yue.conn(e):close()
  simple:close()
end

-- The handshake has an end.
local stuck = yue.listen('tcp://127.0.0.1:0', { handshake_timeout = 0.02 }, {
  __accept = function() yue.sleep(60) return true end,
  f = function() return 1 end,
})
check.raises('Error', nil, function() yue.open(stuck:addr(), { no_cache = true }, nil).f() end)
stuck:close()
listener:close()
check.done()
