-- What works in Lua 5.1 without LuaJIT, too: coroutines must not wait inside pcall there.
local check = require 'check'
local yue_client = require 'yue_client'

local SERVER = [[
  local listener = yue.listen(yue.args[1], {
    add = function(a, b) return a + b end,
    echo = function(...) return ... end,
    counter = function() local n = 0 return function() n = n + 1 return n end end,
    held = function() return yue.peer():stats().functions_held end,
    apply = function(f, ...) return f(...) end,
    ask_back = function(name, ...) return yue.peer().procs[name](...) end,
    fail = function() error('no eggs', 0) end,
  })
]]

local tests = {}

function tests.calls_and_functions_work_in_both_directions()
  local client
  client = check.open(check.serve(SERVER).address, {
    symbols = { double = function(n) return client.procs.add(n, n) end },
  })
  check.run(client, function(c)
    check.equal(c.add(1, 2), 3)
    check.equal(c.echo(-1.5), -1.5)
    check.equal(c.echo '\255', '\255')
    check.equal(c.ask_back('double', 21), 42)
    check.equal(c.apply(function(n) return c.add(n, 1) end, 1), 2)
    local count = c.counter()
    check.equal(count(), 1)
    check.equal(count(), 2)
    client:wait(0.01)
  end)
  check.run(client, function(c)
    while c.held() > 0 do collectgarbage() end
  end)
end

function tests.a_callback_gets_errors()
  local client = check.open(check.serve(SERVER).address)
  local failure
  client:call('fail', function(ok, e) failure = not ok and e end)
  check.wait('the error', function() return failure end)
  check.equal(tostring(failure), 'RuntimeError: no eggs')
  check.equal(getmetatable(yue_client.errors.RuntimeError.new 'x'), getmetatable(failure))
end

check.main(tests)
