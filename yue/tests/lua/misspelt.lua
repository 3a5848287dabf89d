-- Names that can only be misspelt are refused where they are given: of callbacks, and of events.
local check = require 'check'
local any = 'tcp://127.0.0.1:0'
check.raises('ArgumentError', '__accpet', yue.listen, any, { __accpet = function() end })
check.raises('ArgumentError', '__accept, __close, __open, __timeout', yue.listen, any, { __acept = true })
check.raises('ArgumentError', '__Close', yue.open, any, nil, { f = print, __Close = function() end })
check.raises('ArgumentError', '__x', yue.listen, any, { { f = print }, { __x = 1 } })
local path = os.tmpname()
local file = assert(io.open(path, 'w'))
file:write('function f() end function __acccept() end')
file:close()
check.raises('ArgumentError', '__acccept', yue.listen, any, path)
os.remove(path)

-- A class may be symbols: its metamethods mean something to Lua. One underscore is private.
local Class = { f = function() return 1 end, __tostring = function() return '' end, _own = 1 }
Class.__index = Class
local listener = yue.listen(any, Class)
check.equal(yue.open(listener:addr()).f(), 1)
check.raises('ArgumentError', '__opne', function() listener.namespace.__opne = print end)
check.raises('ArgumentError', '__opne', listener.import, listener, { __opne = print })
listener.namespace.__open = function() end

-- Options of yue.die, which would end the program at once.
check.raises('ArgumentError', 'yue.die has no option shutdown_afterr', yue.die, { shutdown_afterr = 3600 })

-- Events.
local thread = yue.thread('misspelt', function() end)
local timer = yue.timer(0, 3600)
for _, emitter in ipairs { listener, thread, timer, yue.signal(yue.const.SIGUSR2), yue.socket(listener:addr()) } do
  check.raises('ArgumentError', 'has no event tikc', emitter.bind, emitter, 'tikc', print)
  check.raises('ArgumentError', 'has no event tikc', emitter.bind, emitter, { 'tikc' }, print)
  check.raises('ArgumentError', 'has no event tikc', emitter.wait, emitter, 'tikc', 0.001)
  check.raises('ArgumentError', 'has no event tikc', emitter.unbind, emitter, 'tikc')
  check.raises('ArgumentError', 'has no event tikc', emitter.emit, emitter, 'tikc')
  emitter:close()
end
local own = yue.emitter()
check.equal(own:wait('anything', 0.001), false)
check.done()
