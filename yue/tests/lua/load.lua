--! stderr: the handler of maybe failed, called by tcp://127.0.0.1:
-- Under load, with collections in between, nothing gets lost and nothing is left behind.
local check = require 'check'
local c, listener = check.pair {
  echo = function(x) if x % 7 == 0 then yue.sleep(0) end return x end,
  maybe = function(x) if x % 3 == 0 then error('third') end return x end,
}
local function memory()
  for _ = 1, 3 do collectgarbage() yue.sleep(0) end
  return collectgarbage('count')
end
local function round()
  local fibers = {}
  for f = 1, 100 do
    fibers[f] = yue.spawn(function()
      for i = 1, 50 do
        check.count = check.count + 1
        if c.echo(i * f) ~= i * f then error('mixed up') end
        local ok = pcall(c.maybe, i)
        if ok ~= (i % 3 ~= 0) then error('mixed up') end
        if not c.async_echo(i):sync() then error('lost') end
      end
    end)
  end
  yue.all(fibers)
end
round()
local before = memory()
for _ = 1, 3 do round() end
local after = memory()
check.that(after < before * 1.5 + 500, ('from %d to %d KiB'):format(before, after))

-- Connections come and go.
local function churn()
  for i = 1, 100 do
    local d = yue.open(listener:addr(), { no_cache = true }, { f = function() end })
    check.equal(d.echo(i), i)
    yue.conn(d):close()
  end
end
churn()
before = memory()
for _ = 1, 4 do churn() end
after = memory()
check.that(after < before * 1.5 + 500, ('from %d to %d KiB'):format(before, after))
check.eventually(function() return #listener:connections() <= 1 end)
listener:close()
check.done()
