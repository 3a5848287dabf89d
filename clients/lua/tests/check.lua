-- What the tests of the Lua client share: servers in yue and hostile ones, the loop, and checks.
local socket = require 'socket'
local yue_client = require 'yue_client'

local check = { count = 0 }
local LONG = 30 -- Seconds that a test waits for what must come.
local clients, servers = {}, {}

local function shown(v) return type(v) == 'string' and ('%q'):format(v) or tostring(v) end

function check.equal(found, expected, what)
  if found ~= expected then
    error(('%s: found %s, not %s'):format(what or 'a value', shown(found), shown(expected)), 2)
  end
end

function check.matches(text, pattern)
  if not tostring(text):find(pattern) then error(('%s does not match %s'):format(shown(text), pattern), 2) end
end

-- Demands that `fn(...)` raises an error object of that type; returns it.
function check.raises(kind, fn, ...)
  local ok, e = pcall(fn, ...)
  if ok then error('it raised nothing, not ' .. kind, 2) end
  if type(e) ~= 'table' or e.type ~= kind then error(('it raised %s, not %s'):format(tostring(e), kind), 2) end
  return e
end

-- Updates all clients until the condition holds.
function check.wait(what, condition)
  local stop = socket.gettime() + LONG
  repeat
    for _, client in ipairs(clients) do client:update() end
    for _, server in ipairs(servers) do if server.update then server:update() end end
    local found = condition()
    if found then return found end
    socket.sleep(0.001)
  until socket.gettime() > stop
  error('this did not come: ' .. what, 2)
end

-- Updates for so many seconds.
function check.pass(seconds)
  local stop = socket.gettime() + seconds
  check.wait('time', function() return socket.gettime() >= stop end)
end

-- Opens a client. Its log is kept in `client.logged`.
function check.open(address, options)
  options = options or {}
  local logged = {}
  options.log = function(text) logged[#logged + 1] = text end
  options.timeout = options.timeout or LONG
  local client = yue_client.open(address, options)
  client.logged = logged
  clients[#clients + 1] = client
  return client
end

-- Runs a function in a coroutine of the client, to its end.
function check.run(client, fn)
  -- Without pcall, which Lua 5.1 cannot yield across.
  local ended
  client:run(function()
    fn(client.procs)
    ended = true
  end)
  local function failure()
    for _, text in ipairs(client.logged) do if text:find '^a coroutine failed' then return text end end
  end
  check.wait('the end of a coroutine', function() return ended or failure() end)
  if not ended then error(failure(), 2) end
end

-- Starts a program of yue that serves at `yue.args[1]`.
function check.serve(code, address)
  local path = os.tmpname()
  local file = assert(io.open(path, 'w'))
  file:write("local yue = require 'yue'\n", code)
  file:write("\nio.stdout:write('at ' .. listener:addr() .. '\\n')\nio.stdout:flush()\n")
  file:close()
  local command = ('echo $$; exec %s %s %s 2>%s.log')
  local pipe = assert(io.popen(command:format(os.getenv 'YUE', path, address or 'tcp://127.0.0.1:0', path)))
  local server = { pid = assert(pipe:read '*l'), pipe = pipe, path = path }
  server.address = (pipe:read '*l' or ''):match '^at (.+)$'
  function server:stop()
    if not self.pid then return end
    os.execute('kill -9 ' .. self.pid)
    self.pid = nil
    self.pipe:close()
    os.remove(self.path)
    os.remove(self.path .. '.log')
  end
  servers[#servers + 1] = server
  assert(server.address, 'the server did not start')
  return server
end

-- A server that sends what the test chooses: one reply for each piece of input. `check.STOP`: it reads no more.
check.STOP = {}

function check.hostile(...)
  local listening = assert(socket.bind('127.0.0.1', 0))
  listening:settimeout(0)
  local _, port = listening:getsockname()
  local server = { address = 'tcp://127.0.0.1:' .. port, received = '', links = 0, replies = { ... }, open = {} }
  function server:update()
    local handle = listening:accept()
    if handle then
      handle:settimeout(0)
      self.links = self.links + 1
      self.open[#self.open + 1] = { handle = handle, at = 0 }
    end
    for _, link in ipairs(self.open) do
      local data, _, partial
      if self.replies[link.at + 1] ~= check.STOP then data, _, partial = link.handle:receive(65536) end
      data = data or partial
      if data and #data > 0 then
        self.received = self.received .. data
        link.at = link.at + 1
        if self.replies[link.at] then link.handle:send(self.replies[link.at]) end
      end
    end
  end
  function server:stop()
    listening:close()
    for _, link in ipairs(self.open) do link.handle:close() end
  end
  servers[#servers + 1] = server
  return server
end

-- Runs all tests of a table, in the order of their names.
function check.main(tests)
  local names, failed = {}, 0
  for name in pairs(tests) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    local ok, e = xpcall(tests[name], debug.traceback)
    if not ok then
      failed = failed + 1
      io.stderr:write(name, ': ', tostring(e), '\n')
    end
    for _, client in ipairs(clients) do client:close() end
    for _, server in ipairs(servers) do server:stop() end
    clients, servers = {}, {}
  end
  print(('%s: %d tests, %d failed'):format(arg[0], #names, failed))
  os.exit(failed == 0 and #names > 0 and 0 or 1)
end

return check
