-- The collector also works while the loop is idle, and finalizers then run outside fibers. They may do the same there.
local check = require 'check'
local emitter = yue.emitter()
local faults, emitted, spawned, called = {}, 0, 0, 0
emitter:bind('x', function() emitted = emitted + 1 end)
local functions = {
  timeout = function() return yue.timeout(1, function() called = called + 1 return 'result' end) end,
  shield = function() return yue.shield(function() return 'result' end) end,
  try = function() return yue.try { function() error('mine') end, catch = function() return 'result' end } end,
  spawn = function() yue.spawn(function() spawned = spawned + 1 end) return 'result' end,
  emit = function() emitter:emit('x') return 'result' end,
  current = function() return tostring(yue.fiber.current()):match('^fiber: ') and 'result' end,
  sleep = function()
    local ok, e = pcall(yue.sleep, 0.001)
    return not ok and tostring(e):find('cannot suspend inside a __gc finalizer', 1, true) and 'result'
  end,
}

-- Garbage enough for the collector to work whenever the loop is idle.
local idle = 0
local function litter()
  for _ = 1, 300 do
    for name, fn in pairs(functions) do
      getmetatable(newproxy(true)).__gc = function()
        local _, result = pcall(fn)
        if result ~= 'result' then faults[#faults + 1] = name .. ': ' .. tostring(result) end
        if tostring(yue.fiber.current()):find('finalizer', 1, true) then idle = idle + 1 end
      end
    end
  end
end
check.eventually(function()
  litter()
  yue.sleep(0.01)
  return idle > 100
end)
check.equal(faults[1], nil)
check.that(emitted > 0 and spawned > 0 and called > 0)

-- At the end of the program, waits and new fibers are refused, and the rest works.
_G.kept = {}
for name, fn in pairs(functions) do
  local proxy = newproxy(true)
  getmetatable(proxy).__gc = function()
    local ok, result = pcall(fn)
    if name == 'spawn' or name == 'emit' then
      assert(not ok and tostring(result):find('the program has ended', 1, true), name .. ': ' .. tostring(result))
    else
      assert(ok and result == 'result', name .. ': ' .. tostring(result))
    end
  end
  kept[#kept + 1] = proxy
end
check.done()
