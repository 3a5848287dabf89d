--! stderr: the handler of plain failed, called by tcp://127.0.0.1:
-- Error objects: fields, classes, what crosses the wire and how.
local check = require 'check'
local E = yue.errors

local tree = {
  RPCError = 'Error', TimeoutError = 'RPCError', CancelledError = 'RPCError', RuntimeError = 'RPCError',
  ClientError = 'RPCError', TransportError = 'ClientError', NetworkUnreachableError = 'TransportError',
  ConnectionRefusedError = 'TransportError', ConnectionTimeoutError = 'TransportError', TLSError = 'TransportError',
  ConnectionLostError = 'TransportError', AddressError = 'TransportError', MessageRefusedError = 'ClientError',
  MessageTooLargeError = 'MessageRefusedError', CallError = 'ClientError', NoMethodError = 'CallError',
  ArgumentError = 'CallError', NotGrantedError = 'CallError', ServerError = 'RPCError', ServerBusyError = 'ServerError',
}
local codes = {}
for name, parent in pairs(tree) do
  local e = E[name].new('text')
  check.that(e:is_a(name) and e:is_a(E[name]) and e:is_a(parent) and e:is_a('Error'), name)
  check.equal(tostring(e), name .. ': text')
  check.equal({ e.type, e.msg, type(e.code), e.retryable }, { name, 'text', 'number', false })
  check.that(not codes[e.code], 'a code of its own: ' .. name)
  codes[e.code] = name
end
check.that(not E.TimeoutError.new(''):is_a('ClientError'))
check.that(not E.RuntimeError.new(''):is_a('NoSuchClass'))
check.equal(E.RuntimeError('called').msg, 'called')
check.equal(E.RuntimeError.new({ 1 }).value, { 1 })
check.equal(tostring(E.RuntimeError), 'RuntimeError')
check.raises('ArgumentError', 'is_a', function() E.RuntimeError.new('x'):is_a() end)
check.that(not pcall(function() return E.RuntimeError.new('x').is_a(nil, 'Error') end) or true)

local listener = yue.listen('tcp://127.0.0.1:0', { traceback = true }, {
  plain = function() error('plain text') end,
  object = function() error(E.TimeoutError.new('mine')) end,
  a_table = function() error({ code = 5, list = { 1, 2 } }) end,
  number = function() error(42) end,
  nothing = function() error() end,
  deep = function() local function f() return 1 + f() end return f() end,
  own_type = function() local e = E.RuntimeError.new('own') e.type = 'MyError' e.code = 1234 error(e) end,
  with_function = function() error({ f = print }) end,
  slow_text = function() error(setmetatable({}, { __tostring = function() yue.sleep(0.001) return 'x' end })) end,
  bad_text = function() error(setmetatable({}, { __tostring = function() error('worse') end })) end,
  no_text = function() error(setmetatable({}, { __tostring = function() return 5 end })) end,
  lua_error = function() local x = nil; return x.y end,
  bad_results = function() return coroutine.create(print) end,
  huge = function() error(('x'):rep(100000)) end,
  relayed = function() return (yue.peer().procs.inner()) end,
})
local c = yue.open(listener:addr(), { no_cache = true }, nil)

local e = check.raises('RuntimeError', 'plain text', c.plain)
check.contains(e.msg, 'errors.lua:', 'file and line')
check.contains(e.bt, 'errors.lua', 'the traceback of the peer')
local ok, caught = xpcall(c.plain, function(failure) return failure end)
check.that(not ok and caught.bt)
e = yue.try { c.plain, catch = function(failure) return failure end }
check.contains(e.bt, 'called from', 'and of this one')

e = check.raises('TimeoutError', 'mine', c.object)
check.equal(e.type, 'TimeoutError')
e = check.raises('RuntimeError', nil, c.a_table)
check.equal(e.value, { code = 5, list = { 1, 2 } })
check.raises('RuntimeError', '42', c.number)
check.raises('RuntimeError', 'nil', c.nothing)
check.raises('RuntimeError', nil, c.deep)
e = check.raises('RPCError', 'own', c.own_type)
check.equal({ e.type, e.code, e:is_a('MyError'), tostring(e) }, { 'MyError', 1234, true, 'MyError: own' })
check.raises('RuntimeError', nil, c.with_function)
check.raises('RuntimeError', nil, c.slow_text)
check.raises('RuntimeError', nil, c.bad_text)
check.raises('RuntimeError', nil, c.no_text)
check.raises('RuntimeError', "'x'", c.lua_error)
check.raises('ServerError', 'coroutine', c.bad_results)
check.raises('RuntimeError', 'xxx', c.huge)
check.raises('ArgumentError', nil, c.plain, coroutine.create(print))
check.raises('ArgumentError', 'args', c.plain, { { io.stdout } })

-- Both tracebacks of an error that comes through two sides
local both = yue.open(listener:addr(), { traceback = true }, { inner = function() error('at the caller') end })
e = check.raises('RuntimeError', 'at the caller', both.relayed)
check.contains(e.bt, 'called from')
check.contains(e.bt, "in function 'inner'")

-- A future's error is the same object.
local fine, failure = c.async_a_table():sync()
check.that(not fine)
check.equal(failure.value.code, 5)

check.raises('ConnectionRefusedError', nil, yue.open('tcp://127.0.0.1:1', { no_cache = true }, nil).x)
check.raises('AddressError', nil, yue.open, 'nonsense://x')
check.raises('AddressError', nil, yue.listen, 'tcp://127.0.0.1:99999', {})
check.raises('TransportError', nil, yue.open('thread://nobody', { no_cache = true }, nil).x)
listener:close()

-- Errors can be concatenated, as the texts that they stand for.
local concatenated = yue.errors.RuntimeError.new('no luck')
check.equal('failed: ' .. concatenated, 'failed: RuntimeError: no luck')
check.equal(concatenated .. '!', 'RuntimeError: no luck!')
check.equal(concatenated .. concatenated, 'RuntimeError: no luckRuntimeError: no luck')
check.equal(1 .. concatenated, '1RuntimeError: no luck')
check.done()
