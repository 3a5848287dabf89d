-- Row 8: FIBERS fibers, each of which yields YIELDS times. The clock runs from the first one's last warm-up round to
-- the last one's last counted round; then all run on for a round, so that no fiber's end is measured.

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
