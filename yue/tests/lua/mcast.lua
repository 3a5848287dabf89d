--! stderr: even
-- Multicast: calls to all members of a group, over the loopback interface alone.
local check = require 'check'

local options = { interface = '127.0.0.1' }
-- A port that nobody else uses now.
local probe = yue.listen('udp://127.0.0.1:0', {})
local port = tonumber(probe:addr():match ':(%d+)$')
probe:close()
local group = ('mcast://239.255.77.1:%d'):format(port)

-- Three members, which are listeners at one address.
local noted = {}
local members = {}
for i = 1, 3 do
  members[i] = yue.listen(group, options, {
    who = function(prefix) return prefix .. i, i end,
    note = function(what) noted[#noted + 1] = what .. i end,
    odd = function() if i % 2 == 0 then error 'even' end return i end,
    ask = function() return yue.peer().procs.f() end,
    addr = function() return yue.peer():addr() end,
  })
  check.equal(members[i]:addr(), group)
end
local c = yue.open(group, options, nil)

local function sorted(list, of)
  local values = {}
  for i, row in ipairs(list) do values[i] = of(row) end
  table.sort(values)
  return values
end

-- A plain call has the first answer; a notification reaches everybody.
check.contains(c.who('m')[1], 'm')
check.equal(c.notify_note 'a', true)
check.equal(c.notify_mcast_note 'b', true)
check.eventually(function() return #noted == 6 end, 'all hear it')
table.sort(noted)
check.equal(noted, { 'a1', 'a2', 'a3', 'b1', 'b2', 'b3' })

-- All answers, as a list.
local ok, list = c.timed_mcast_who(0.3, 'x'):sync()
check.equal(ok, true)
check.equal(sorted(list, function(row) return row[3][1] end), { 'x1', 'x2', 'x3' })
for _, row in ipairs(list) do
  check.that(row[1]:find '^udp://127%.0%.0%.1:%d+$', row[1])
  check.equal(row[2], true)
end

-- One after the other, errors among them. The sender's address reaches that member alone.
local results, errors = {}, {}
local answers = c.timed_mcast_odd(0.3)
check.contains(tostring(answers), 'odd')
for sender, fine, value in answers do
  if fine then
    results[#results + 1] = value
    local member = yue.socket(sender, { no_cache = true }, nil)
    check.equal(member.procs.odd(), value)
    member:close()
  else
    errors[#errors + 1] = value.msg
  end
end
table.sort(results)
check.equal(results, { 1, 3 })
check.equal(#errors, 1)
check.contains(errors[1], 'even')
check.equal(answers:done(), true)
check.equal(#answers:get(), 3)

-- As events.
local count, done = 0, false
answers = c.async_timed_mcast_who(0.3, 'e')
answers:bind('answer', function(sender, fine)
  check.that(sender and fine)
  count = count + 1
end)
answers:bind('done', function() done = true end)
check.eventually(function() return done end, 'it ends with its time')
check.equal(count, 3)

-- Given up early.
answers = c.mcast_who 'g'
check.that(answers())
answers:cancel()
check.equal(answers:done(), true)

-- A caller offers nothing to the members.
for _, fine, e in c.timed_mcast_ask(0.3) do
  check.equal(fine, false)
  check.contains(e.msg, 'offers no functions')
end

-- Fewer members; nobody at all.
members[1]:close()
members[2]:close()
check.equal(#c.timed_mcast_who(0.3, 'y'):get(), 1)
members[3]:close()
check.equal(c.timed_mcast_who(0.1, 'z'):get(), {})
check.raises('TimeoutError', nil, c.timed_who, 0.1, 'z')
check.raises('ArgumentError', 'seconds', c.timed_mcast_who, 'soon')

-- What cannot be a group, or an interface.
check.raises('AddressError', 'not a multicast group', yue.listen, 'mcast://10.0.0.1:9000', {})
check.raises('AddressError', 'no network interface', yue.listen, group, { interface = 'none0' }, {})
local lost = yue.open(group, { interface = 'none0', no_cache = true }, nil)
check.raises('AddressError', 'no network interface', lost.f)
yue.conn(c):close()

-- IPv6, over the interface by its name. Many machines have no route for it on this interface, some have no IPv6.
local six = ('mcast://[ff15::77]:%d'):format(port)
local by_name = { interface = 'lo' }
local bound, listener = pcall(yue.listen, six, by_name, { who = function() return 'six' end })
if bound then
  local d = yue.open(six, by_name, nil)
  local reached, answer = pcall(d.who)
  if reached then
    check.equal(answer, 'six')
    check.equal(#d.timed_mcast_who(0.2):get(), 1)
  else
    check.that(answer:is_a 'NetworkUnreachableError', tostring(answer))
    check.raises('NetworkUnreachableError', six, function() d.mcast_who():get() end)
    check.raises('NetworkUnreachableError', six, function() for _ in d.mcast_who() do end end)
  end
  listener:close()
else
  check.that(listener:is_a 'AddressError', tostring(listener))
  check.raises('AddressError', nil, yue.listen, 'tcp://[::1]:0', {})
end
check.done()
