-- Listeners tell of connections that they accept and lose, threads of their end.
local check = require 'check'
local told = {}
local listener = yue.listen('tcp://127.0.0.1:0', {
  __accept = function(conn) return conn.procs.password() == 'right' end,
  hello = function() return 'hello' end,
})
listener:bind('accept', function(conn) told[#told + 1] = { 'accept', conn } end)
listener:bind('close', function(conn, reason) told[#told + 1] = { 'close', conn, reason } end)
local function client(password)
  local options = { no_cache = true, reconnect = false }
  return yue.open(listener:addr(), options, { password = function() return password end })
end
local wrong = client 'wrong'
check.raises('NotGrantedError', nil, wrong.hello)
local right = client 'right'
check.equal(right.hello(), 'hello')
check.eventually(function() return #told == 1 end)
check.equal(told[1][1], 'accept')
check.that(rawequal(told[1][2], listener:connections()[1]))
yue.conn(right):close('enough')
check.eventually(function() return #told == 2 end)
check.equal(told[2][1], 'close')
check.that(rawequal(told[2][2], told[1][2]))
check.equal(type(told[2][3]), 'string')
-- The refused one was never told of, neither then nor at its end.
yue.sleep(0.02)
check.equal(#told, 2)

-- Without a callback in the namespace, and by wait.
local plain = yue.listen('tcp://127.0.0.1:0', { hello = function() return 'hello' end })
local waiting = yue.spawn(plain.wait, plain, 'accept', 60)
yue.yield()
local caller = yue.open(plain:addr(), { no_cache = true }, nil)
check.equal(caller.hello(), 'hello')
local ok, conn = waiting:get()
check.equal(ok, true)
check.contains(conn:addr(), 'tcp://127.0.0.1:')
check.equal(plain:wait('accept', 0.01), false)
plain:close()
check.equal(plain:wait('accept', 60), false, 'it is closed')
listener:close()

-- A thread's end: by itself, by an error, by close; also for who binds after it.
local thread = yue.thread('ends', function()
  yue.thread.current:import {
    exit = function(x) yue.thread.current:exit(x) end,
  }
end)
local ends = {}
thread:bind('exit', function(...) ends[#ends + 1] = { ... } end)
thread.procs.notify_exit('bye')
check.equal({ thread:wait('exit', 60) }, { true, true, 'bye' })
check.eventually(function() return #ends == 1 end)
check.equal(ends[1], { true, 'bye' })
thread:close()
check.equal(thread:wait('exit', 60), false, 'it is closed')
check.raises('RuntimeError', 'is closed', thread.bind, thread, 'exit', print)

local closed = yue.thread('closed', function() end)
closed:bind('exit', function(...) ends[#ends + 1] = { ... } end)
closed:close()
check.eventually(function() return #ends == 2 end)
check.equal(ends[2], { true })

local late = yue.thread('late', function()
  yue.thread.current:import { exit = function() yue.thread.current:exit(7) end }
end)
late.procs.notify_exit()
check.equal(late:join(), 7)
check.equal({ late:wait('exit', 60) }, { true, true, 7 })
late:close()
check.done()
