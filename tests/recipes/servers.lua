-- Servers for the tests of the recipes, in temporary folders and at Unix sockets. A shell ends each by its process id
-- when its own input ends: also when the test fails.
local servers = {}
local process, fs = yue.process, yue.fs

local Server = {}
Server.__index = Server

function Server:stop()
  self.process:wait()
end

local GUARD = [["$@" & server=$!; read -r _; kill -%s $server; wait $server]]

--- Starts a program, and waits until `is_ready` returns true.
local function start(command, signal, is_ready)
  local words = { 'sh', '-c', GUARD:format(signal), 'sh', stdout = 'null', stderr = 'pipe' }
  for i, word in ipairs(command) do words[4 + i] = word end
  local server = setmetatable({ process = process.spawn(words) }, Server)
  local log = {}
  yue.spawn(function()
    for line in server.process.err:lines() do
      log[#log + 1] = line
      if #log > 100 then table.remove(log, 1) end
    end
  end)
  for _ = 1, 3000 do
    if is_ready() then return server end
    yue.sleep(0.01)
  end
  server:stop()
  error('the server did not start:\n' .. table.concat(log, '\n'))
end

local function can_connect(addr)
  return function()
    local ok, stream = pcall(yue.net.connect, addr)
    if ok then stream:close() end
    return ok
  end
end

--- Starts Redis: its address, and the server.
function servers.redis()
  local folder = fs.temp()
  local path = folder .. '/redis.sock'
  local server = start({
    'redis-server', '--port', 0, '--unixsocket', path, '--dir', folder, '--save', '', '--appendonly', 'no',
  }, 'TERM', can_connect('unix://' .. path))
  return 'unix://' .. path, server
end

-- PostgreSQL refuses to run as root; a package of Debian makes this user.
local function as_user(command)
  if process.run({ 'id', '-u' }).out ~= '0\n' then return command end
  local words = { 'setpriv', '--reuid=postgres', '--regid=postgres', '--clear-groups' }
  for i, word in ipairs(command) do words[4 + i] = word end
  return words
end

local function run(command)
  local result = process.run(as_user(command))
  if result.code ~= 0 then error(table.concat(command, ' ') .. ': ' .. result.out .. result.err) end
end

--- Starts PostgreSQL with the user `frodo`, whose password is 'the ring': the address of its Unix socket, that of its
--- port, where it has TLS, its certificate, and the server.
function servers.postgres()
  local programs = process.run({ 'sh', '-c', 'ls -d /usr/lib/postgresql/*/bin | tail -n 1' }).out:match '%S+'
  local folder = fs.temp()
  local data = folder .. '/data'
  fs.mkdir(data)
  fs.write(folder .. '/password', 'the ring')
  -- The server takes a key only in a file that is its own.
  local certificate, key = os.getenv 'YUE_CERTIFICATES' .. '/server.pem', folder .. '/key.pem'
  fs.write(key, fs.read(os.getenv 'YUE_CERTIFICATES' .. '/server-key.pem'))
  process.run { 'chmod', '600', key }
  fs.write(folder .. '/certificate.pem', fs.read(certificate))
  if process.run({ 'id', '-u' }).out == '0\n' then process.run { 'chown', '-R', 'postgres:postgres', folder } end
  run {
    programs .. '/initdb', '-D', data, '-U', 'frodo', '-A', 'scram-sha-256', '--pwfile=' .. folder .. '/password', '-N',
    '--no-locale', '-E', 'UTF8',
  }
  -- The system chooses a free port, which another program could take in between.
  local probe = yue.net.listen 'tcp://127.0.0.1:0'
  local port = probe:addr():match '%d+$'
  probe:close()
  local command = {
    programs .. '/postgres', '-D', data, '-k', folder, '-p', port, '-h', '127.0.0.1', '-c', 'fsync=off',
    '-c', 'max_connections=20', '-c', 'ssl=on', '-c', 'ssl_cert_file=' .. folder .. '/certificate.pem',
    '-c', 'ssl_key_file=' .. key,
  }
  local addr = ('unix://%s/.s.PGSQL.%s'):format(folder, port)
  local server = start(as_user(command), 'INT', can_connect(addr))
  return addr, 'tcp://localhost:' .. port, certificate, server
end

return servers
