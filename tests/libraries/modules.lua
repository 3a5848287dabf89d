-- Each library is used by ten fibers at once. Where it calls Lua back, the fibers wait inside those callbacks, and the
-- test checks that several of them were inside at the same time.
local yue = require 'yue'

local FIBERS = 10
local inside, inside_max, failed = 0, 0, 0

--- What the callbacks do.
local function wait()
  inside = inside + 1
  inside_max = math.max(inside_max, inside)
  yue.sleep(0.001)
  inside = inside - 1
end

--- Runs `fn(number)` in ten fibers at once. `fn` waits inside the library's callbacks.
local function check(name, fn)
  inside_max = 0
  local fibers, errors = {}, {}
  for number = 1, FIBERS do fibers[number] = yue.spawn(fn, number) end
  for _, fiber in ipairs(fibers) do
    local ok, raised = fiber:sync()
    if not ok then errors[#errors + 1] = tostring(raised) .. '\n' .. tostring(raised.bt) end
  end
  if inside_max < 2 then errors[#errors + 1] = 'no two fibers waited at the same time' end
  if #errors == 0 then
    print('ok', name)
  else
    failed = failed + 1
    print('FAILED', name, #errors .. ' times, first: ' .. errors[1])
  end
end

--- For libraries that call nothing back: the fibers wait between two uses, so that others use them meanwhile.
local function check_between(name, first, second)
  check(name, function(number)
    local value = first(number)
    wait()
    second(value, number)
  end)
end

check_between('cjson', function(number)
  local cjson = require 'cjson'
  return cjson.encode { number = number, list = { 1, 2, 'x' }, flag = true }
end, function(text, number)
  local value = require('cjson').decode(text)
  assert(value.number == number and #value.list == 3 and value.flag == true)
  assert(require('cjson').null == yue.null)
end)

-- It calls back on the Lua state that it was loaded on: to wait there is refused in all fibers but one.
check('luv', function()
  local uv = require 'luv'
  local timer, done = uv.new_timer(), nil
  timer:start(1, 0, function()
    done = { pcall(yue.sleep, 0.001) }
    timer:close()
  end)
  while not done do
    uv.run 'nowait'
    wait()
  end
  assert(done[1] or done[2]:is_a 'RuntimeError' and done[2].msg:find('of another fiber', 1, true), done[2])
end)

check('lpeg.Cmt', function(number)
  local lpeg = require 'lpeg'
  local word = lpeg.Cmt(lpeg.C(lpeg.R 'az' ^ 1), function(_, position, text)
    wait()
    return true, text .. number .. '@' .. position
  end)
  local words = lpeg.Ct((word * lpeg.P ' ' ^ 0) ^ 1):match 'ab cd ef'
  assert(#words == 3 and words[3] == 'ef' .. number .. '@9', words[3])
end)

check('lpeg folds and re', function(number)
  local lpeg, re = require 'lpeg', require 're'
  local digits = lpeg.C(lpeg.R '09' ^ 1) / function(text)
    wait()
    return tonumber(text)
  end
  local sum = lpeg.Cf(lpeg.Cc(number) * (digits * lpeg.P '+' ^ 0) ^ 1, function(a, b)
    wait()
    return a + b
  end)
  assert(sum:match '1+2+33' == number + 36)
  local marked = re.gsub('a1b2', '[0-9]', function(digit)
    wait()
    return '<' .. digit .. number .. '>'
  end)
  assert(marked == ('a<1%d>b<2%d>'):format(number, number), marked)
end)

check('lfs.dir', function()
  local lfs = require 'lfs'
  local folder = yue.args[0]:match '^(.*)/' or '.'
  local files = 0
  for name in lfs.dir(folder) do
    wait()
    assert(lfs.attributes(folder .. '/' .. name, 'mode'))
    files = files + 1
  end
  assert(files > 3)
end)

check('expat handlers', function(number)
  local lxp = require 'lxp'
  local seen = {}
  local parser = lxp.new {
    StartElement = function(_, name, attributes)
      wait()
      seen[#seen + 1] = name .. (attributes.n or '')
    end,
    CharacterData = function(_, text)
      wait()
      seen[#seen + 1] = text
    end,
    EndElement = function(_, name)
      wait()
      seen[#seen + 1] = '/' .. name
    end,
  }
  assert(parser:parse('<a n="' .. number .. '"><b>'))
  assert(parser:parse 'text</b></a>')
  parser:parse()
  parser:close()
  assert(table.concat(seen, ' ') == 'a' .. number .. ' b text /b /a', table.concat(seen, ' '))
end)

check('penlight', function(number)
  local List, tablex, class = require 'pl.List', require 'pl.tablex', require 'pl.class'
  local mapped = List { 1, 2, 3 }:map(function(value)
    wait()
    return value * number
  end)
  assert(mapped == List { number, 2 * number, 3 * number })
  local sorted = List { 3, 1, 2 }:sort(function(a, b)
    wait()
    return a < b
  end)
  assert(sorted == List { 1, 2, 3 })
  tablex.foreach({ 1, 2 }, wait)
  local Waiter = class()
  function Waiter:_init(value)
    wait()
    self.value = value
  end
  assert(Waiter(number).value == number)
  assert(require('pl.path').exists '/')
end)

check('inspect', function(number)
  local text = require('inspect')({ number }, {
    process = function(value)
      wait()
      return value
    end,
  })
  assert(text:find(number, 1, true), text)
end)

check('rex_pcre2', function(number)
  local marked = require('rex_pcre2').gsub('a1b2', '[0-9]', function(digit)
    wait()
    return '<' .. digit .. number .. '>'
  end)
  assert(marked == ('a<1%d>b<2%d>'):format(number, number), marked)
end)

check_between('zlib', function(number)
  return require('zlib').deflate()(('text' .. number):rep(1000), 'finish')
end, function(packed, number)
  assert(require('zlib').inflate()(packed) == ('text' .. number):rep(1000))
end)

check_between('luasql.sqlite3', function(number)
  local connection = require('luasql.sqlite3').sqlite3():connect ':memory:'
  assert(connection:execute 'create table list (value)')
  assert(connection:execute('insert into list values (' .. number .. ')'))
  return connection
end, function(connection, number)
  local cursor = connection:execute 'select value from list'
  assert(tonumber(cursor:fetch()) == number)
  cursor:close()
  connection:close()
end)

-- LuaSocket waits with the whole thread: it belongs into threads of its own. The server answers when it is told to, so
-- the client is waiting in LuaSocket while this loop goes on.
local function check_socket()
  local server = yue.thread('server', function()
    local socket = require 'socket'
    local listener = assert(socket.bind('127.0.0.1', 0))
    yue.thread.current:import {
      port = function() return (select(2, listener:getsockname())) end,
      answer = function()
        local client = assert(listener:accept())
        assert(client:receive '*l')
        client:send 'HTTP/1.0 200 OK\r\n\r\nhello'
        client:close()
      end,
    }
  end)
  local client = yue.thread('client', function()
    yue.thread.current:import {
      get = function(port) return (require('socket.http').request('http://127.0.0.1:' .. port .. '/')) end,
    }
  end)
  local reply = client.procs.async_get(server.procs.port())
  for _ = 1, 20 do yue.sleep(0.001) end
  assert(not reply:done(), 'the answer came before the server gave one')
  server.procs.answer()
  assert(reply:get() == 'hello')
  client:close()
  server:close()
  print('ok', 'luasocket in threads')
end
check_socket()

if failed > 0 then error(failed .. ' libraries failed', 0) end
