-- Row 8: FIBERS fibers that each yield YIELDS times. The clock runs from the end of the first fiber's warm-up rounds to
-- the end of the last fiber's counted rounds. Then all run for one more round, so that no fiber's end is measured.

local platform = dofile(os.getenv 'FIGURES_LUA' .. '/platform.lua')
local fibers, yields = platform.setting 'FIBERS', platform.setting 'YIELDS'
local yield = platform.yield
local started, ended
local done = 0

local function body()
  for _ = 1, 3 do
    yield()
  end
  started = started or platform.now()
  for _ = 1, yields do
    yield()
  end
  done = done + 1
  if done == fibers then
    ended = platform.now()
  end
  yield()
  return true
end

local all = {}
for index = 1, fibers do
  all[index] = platform.spawn(body)
end
for index = 1, fibers do
  platform.join(all[index])
end
platform.say('result', fibers * yields, string.format('%.9f', ended - started))
os.exit(0)
