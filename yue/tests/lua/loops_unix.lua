--! options: -c 3
-- Three loops listen at one Unix socket together; its file goes with the last of them.
local check = require 'check'
local yue = require 'yue'
local index = yue.thread.current.index

-- A name that the loops share: a port has the same number on each.
local port = yue.listen('tcp://127.0.0.1:0', {})
local path = '/tmp/yue-shared-' .. port:addr():match '%d+$'
local function exists() return os.rename(path, path) ~= nil end
local listener = yue.listen('unix://' .. path, {
  index = function() return index end,
})
check.that(exists())
check.equal(listener:addr(), 'unix://' .. path)

-- Each loop has a separate listener by which the others find it, so that they continue together.
local arrived, step = { 0, 0, 0 }, 0
local own = yue.listen('unix://' .. path .. '-' .. index, {
  arrived = function(who, where) arrived[who] = where end,
})
local function tell_all()
  step = step + 1
  for other = 1, 3 do
    local c = yue.open('unix://' .. path .. '-' .. other, { retry = true, timeout = 60 }, nil)
    c.arrived(index, step)
  end
  check.eventually(function()
    return arrived[1] >= step and arrived[2] >= step and arrived[3] >= step
  end)
end

tell_all()
local served = {}
for _ = 1, 60 do
  local c = yue.open('unix://' .. path, { no_cache = true }, nil)
  local mine = c.index()
  check.that(mine >= 1 and mine <= 3)
  check.equal(c.index(), mine, 'a connection stays where it was accepted')
  served[mine] = true
  yue.conn(c):close()
end
check.that(next(served))
tell_all()

-- Whoever stops first takes nothing from the others.
if index == 1 then listener:close() end
tell_all()
check.that(exists(), 'the others still listen')
if index ~= 1 then
  for _ = 1, 10 do
    local c = yue.open('unix://' .. path, { no_cache = true }, nil)
    check.that(c.index() ~= 1)
    yue.conn(c):close()
  end
end
tell_all()
listener:close()
tell_all()
check.that(not exists(), 'the last one removes the file')
own:close()
port:close()
check.done()
