-- yue.try: result, catch, finally, nested, cancelled.
local check = require 'check'

check.equal({ yue.try { function() return 1, nil, 3 end } }, { 1, nil, 3 })
check.equal(yue.try { function() error('x') end, catch = function(e) return e.type, 5 end }, 'RuntimeError')
check.equal(yue.try { function() error({ 7 }) end, catch = function(e) return e.value[1] end }, 7)
check.raises('RuntimeError', 'tries.lua', function() yue.try { function() error('x') end } end)
check.raises('RuntimeError', 'second', function()
  yue.try { function() error('first') end, catch = function() error('second') end }
end)
check.raises('TimeoutError', 'mine', function()
  yue.try { function() error(yue.errors.TimeoutError.new('mine')) end, catch = function(e) error(e, 0) end }
end)

local log = {}
local function note(what) return function() log[#log + 1] = what end end
yue.try { note 'a', finally = note 'b' }
check.raises('RuntimeError', 'x', function() yue.try { function() error('x') end, finally = note 'c' } end)
check.raises('RuntimeError', 'y', function()
  yue.try { function() error('x') end, catch = function() error('y') end, finally = note 'd' }
end)
check.raises('RuntimeError', 'from finally', function()
  yue.try { note 'e', finally = function() error('from finally') end }
end)
check.equal(table.concat(log), 'abcde')

-- finally may wait, even if the fiber was cancelled.
local tidied
local f = yue.spawn(function()
  yue.try { function() yue.sleep(60) end, finally = function() yue.sleep(0.005) tidied = true end }
end)
yue.yield()
f:cancel()
check.raises('CancelledError', nil, f.get, f)
check.that(tidied)

-- Blocking inside all three
check.equal(yue.try {
  function() yue.sleep(0.001) error('x') end,
  catch = function() yue.sleep(0.001) return 'caught' end,
  finally = function() yue.sleep(0.001) end,
}, 'caught')

-- The innermost that waits gets the error of a callback.
local e = yue.emitter()
check.equal(yue.try {
  function()
    return 'outer ' .. yue.try {
      function()
        e:bind('x', function() error('cb') end)
        e:emit('x')
        yue.sleep(60)
      end,
      catch = function() return 'inner' end,
    }
  end,
  catch = function() return 'not this one' end,
}, 'outer inner')
yue.sleep(0.001)

for _, wrong in ipairs { 5, 'x', {}, { 5 }, print } do check.raises('ArgumentError', 'yue.try', yue.try, wrong) end
check.raises('ArgumentError', 'catch', yue.try, { print, catch = 5 })
check.raises('ArgumentError', 'finally', yue.try, { print, finally = 'x' })
check.raises('ArgumentError', 'not finaly', yue.try, { print, finaly = print })
check.raises('ArgumentError', 'not 2', yue.try, { print, print })
check.raises('ArgumentError', nil, yue.try)
check.done()
