--! stderr: yue error: the handler of fail failed, called by tcp://127.0.0.1:
--! stderr: tracebacks.lua:13: attempt to index local
--! stderr: the handler of deep.note failed, notified by tcp://127.0.0.1:
--! stderr: the handler of a function that was passed as a value failed
--! stderr: \x1b[31mred\x0d
--! stderr:     yue error: forged
--! stderr: __accept failed, for tcp://127.0.0.1:
--! stderr: more failures of handlers, callbacks and peers were not logged
-- Errors of handlers: logged where they happen; what leaves the machine holds no traceback and no address.
local check = require 'check'
local noted = 0
local symbols = {
  fail = function() local x = nil return x.y end,
  with_c = function() return table.sort({ 3, 2, 1 }, function() error('in C') end) end,
  raise = function(kind)
    if kind == 'table' then error {} end
    if kind == 'function' then error(print) end
    if kind == 'text' then error('a ' .. tostring({}) .. ' and a ' .. tostring(print)) end
    error(setmetatable({ message = 'the message' }, {}))
  end,
  red = function() error('\27[31mred\r\nyue error: forged', 0) end,
  deep = { note = function() noted = noted + 1 error('nobody hears it') end },
  call = function(f) return f() end,
}
local listener = yue.listen('tcp://127.0.0.1:0', symbols)
local c = yue.open(listener:addr(), { no_cache = true }, nil)

-- Caught by pcall, an error has only the peer's traceback.
local function no_address(e)
  check.that(not (e.msg .. (e.bt or '')):find('0x%x%x%x%x'), e.msg .. (e.bt or ''))
end
local e = check.raises('RuntimeError', "attempt to index local 'x'", c.fail)
check.contains(e.msg, 'tracebacks.lua:')
check.equal(e.bt, nil)
no_address(e)
for _, kind in ipairs { 'table', 'function', 'text', 'message' } do
  no_address(check.raises('RuntimeError', kind == 'text' and 'a table' or kind, c.raise, kind))
end
check.raises('RuntimeError', 'red', c.red)

-- A notification's too, and a function's that was passed.
c.deep.notify_note()
check.eventually(function() return noted == 1 end)
check.raises('RuntimeError', 'mine', c.call, function() error('mine') end)

-- On this machine they travel, without addresses.
local folder = os.tmpname()
os.remove(folder)
local near = yue.listen('unix://' .. folder, symbols)
local d = yue.open(near:addr())
e = check.raises('RuntimeError', 'in C', d.with_c)
check.contains(e.bt, 'tracebacks.lua:14')
check.contains(e.bt, '[C]')
no_address(e)
near:close()
os.remove(folder)

-- If the options say so, anywhere; or nowhere.
local told = yue.listen('tcp://127.0.0.1:0', { traceback = true }, symbols)
e = check.raises('RuntimeError', 'in C', yue.open(told:addr()).with_c)
check.contains(e.bt, 'tracebacks.lua:14')
no_address(e)
told:close()

-- Strangers get none with their refusal.
local closed = yue.listen('tcp://127.0.0.1:0', { traceback = true }, {
  __accept = function() error('not you, ' .. tostring({})) end,
  f = function() end,
})
e = check.raises('NotGrantedError', 'not you, table', yue.open(closed:addr(), { no_cache = true }, nil).f)
no_address(e)
check.equal(e.bt, nil)
closed:close()

-- A flood of them is counted, not written.
for _ = 1, 500 do pcall(c.fail) end
yue.sleep(0.3)
listener:close()
check.done()
