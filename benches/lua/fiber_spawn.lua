-- Row 8: FIBERS fibers, one after another: each is spawned, runs to its end, and is joined.

local platform = dofile(os.getenv 'FIGURES_LUA' .. '/platform.lua')
local fibers = platform.setting 'FIBERS'

local function body(number)
  return number
end

local function run(count)
  for number = 1, count do
    if platform.join(platform.spawn(body, number)) ~= number then
      error 'a wrong result'
    end
  end
end

run(math.ceil(fibers / 10))
local started = platform.now()
run(fibers)
platform.say('result', fibers, string.format('%.9f', platform.now() - started))
os.exit(0)
