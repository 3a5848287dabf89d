-- Row 3: FIBERS fibers that sleep until the program ends. The result is the process's memory in bytes with them, minus
-- its memory before, each measured after a garbage collection.

local platform = dofile(os.getenv 'FIGURES_LUA' .. '/platform.lua')
local fibers = platform.setting 'FIBERS'
local parked = 0

local function body(number)
  parked = parked + 1
  platform.sleep(1e6)
  return number
end

local function memory()
  collectgarbage()
  collectgarbage()
  local kib = 0
  for line in io.lines '/proc/self/status' do
    kib = kib + (tonumber(line:match '^VmRSS:%s*(%d+)' or line:match '^VmPTE:%s*(%d+)') or 0)
  end
  return kib * 1024
end

local before = memory()
for number = 1, fibers do
  platform.spawn(body, number)
end
while parked < fibers do
  platform.yield()
end
platform.yield()
platform.say('result', fibers, memory() - before)
os.exit(0)
