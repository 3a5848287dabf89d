-- The name of a procedure stays what it was while its call waits, whatever a program does to the node.
local check = require 'check'
local listener = yue.listen('tcp://127.0.0.1:0', { sink = function() end })
local c = yue.open(listener:addr(), { output_high = 1000, no_cache = true }, nil)
c.sink()
local node = c.no_name
for _, value in ipairs { 12345, false, {} } do
  rawset(node, 2, value)
  local ok, message = pcall(node)
  check.that(not ok)
  check.contains(message, 'not a procedure')
end
--- Starts a call whose name nothing but the call itself will keep: the node's fields are replaced while it waits.
local function call_and_replace(i)
  local name = 'a_name_of_its_own_' .. i
  local node = c[name]
  local waiting = yue.spawn(function() return node() end)
  yue.yield()
  rawset(c, name, nil)
  for field = 2, 3 do rawset(node, field, 'another') end
  return waiting
end

for i = 1, 50 do
  local full = {}
  -- The output is full, so that the call waits for room.
  for k = 1, 4 do full[k] = c.async_sink(('x'):rep(200000)) end
  local waiting = call_and_replace(i)
  -- The name is collected, and its memory used again.
  collectgarbage()
  local garbage = {}
  for k = 1, 2000 do garbage[k] = 'garbage_instead_of_' .. k end
  local _, e = waiting:sync()
  check.contains(e.msg, "'a_name_of_its_own_" .. i .. "'")
  for k = 1, 4 do full[k]:get() end
end
listener:close()
check.done()
