-- The carrier of `ssh://[user@]host[:port]`: a node on a host with nothing but a shell. This program travels there.
local core, yue, internal = ...
local type, pairs, ipairs, tostring = type, pairs, ipairs, tostring
local floor, max = math.floor, math.max

local function fail(text) internal.argument_error('yue.nalloc: ' .. text) end

local ADDRESS = 'ssh://[user@]host[:port]'

-- ssh gives up after so many unanswered questions whether the host is there.
local QUESTIONS = 4

local OWN_NAME = 'yue-pinned' -- of the host in the file of its key

--- The user, the host and the port of an address. Neither can be taken for an option, or for a command of ssh's.
local function parse(address)
  local user, place = address:match('^([^@]*)@(.*)$')
  place = place or address
  local host, port = place:match('^%[([%x:.]+%%?[%w._-]*)%]:?(%d*)$')
  if not host then host, port = place:match('^([%w._-]+):?(%d*)$') end
  if not host or host:sub(1, 1) == '-' or (place:sub(-1) == ':') then
    fail(("'ssh://%s' is not an address of the form %s"):format(address, ADDRESS))
  end
  if user and not user:find('^[%w_.][%w_.@+\\-]*$') then
    fail(("'ssh://%s' has a user whose name is not one: it has letters, digits and ._+-"):format(address))
  end
  if port ~= '' and not (tonumber(port) >= 1 and tonumber(port) <= 65535) then
    fail(("'ssh://%s' has a port that is not one"):format(address))
  end
  return user, host, port
end

--- Checks the parts of a target that ssh reads.
local function check(address, machine)
  parse(address)
  for _, field in ipairs { 'identity', 'config' } do
    local path = machine[field]
    if path ~= nil and (type(path) ~= 'string' or path == '' or path:find('[%z\n"]')) then
      fail(("the field %s of a target is the path of a file, not %s"):format(field, internal.describe_value(path)))
    end
  end
  local key = machine.host_key
  if key ~= nil and (type(key) ~= 'string' or not key:find('^%s*[%w@.-]+ [%w+/=]+')) then
    fail("the field host_key of a target is a public key such as 'ssh-ed25519 AAAA…', as in the host's "
      .. '/etc/ssh/ssh_host_ed25519_key.pub')
  end
end

--- A file in which ssh finds the pinned keys, one a line, and nothing else.
local function known_hosts(keys)
  local lines = {}
  for line in keys:gmatch('[^\r\n]+') do
    local kind, key = line:match('^%s*([%w@.-]+) ([%w+/=]+)')
    if kind then lines[#lines + 1] = ('%s %s %s\n'):format(OWN_NAME, kind, key) end
  end
  local text = table.concat(lines)
  local folder = internal.cache_folder('hosts')
  local path = folder .. '/' .. yue.crypto.hex(yue.crypto.sha256(text))
  if not yue.fs.exists(path) then
    yue.fs.mkdir(folder, { parents = true })
    local temporary = ('%s.%s'):format(path, yue.crypto.hex(yue.crypto.random(8)))
    yue.fs.write(temporary, text)
    yue.fs.rename(temporary, path)
  end
  return path
end

--- The value of an option of ssh that is a path: quoted, and without its percent signs' meaning.
local function path_value(path)
  return '"' .. path:gsub('%%', '%%%%') .. '"'
end

--- Quotes a text for a POSIX shell. It is read as one line.
local function quote(what, text)
  text = tostring(text)
  if text:find('[\n%z]') then fail(what .. ' cannot contain a line break on another machine') end
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

--- The line of shell that starts the node: the program and its words are "$@".
local function start_line(options)
  local words = {}
  if options.directory then
    words[#words + 1] = ('cd -- %s &&'):format(quote('the option directory', options.directory))
  end
  words[#words + 1] = 'exec env'
  local settings = {}
  for name, value in pairs(options.env or {}) do
    if value == false then
      words[#words + 1] = '-u ' .. quote('env', name)
    else
      settings[#settings + 1] = quote('env.' .. name, name .. '=' .. tostring(value))
    end
  end
  words[#words + 1] = table.concat(settings, ' ')
  words[#words + 1] = '"$@" node'
  return table.concat(words, ' ')
end

--- The command that runs a host's shell.
local function ssh_command(allocation, address, machine, nonce)
  local user, host, port = parse(address)
  local lease = allocation.lease
  local command = { 'ssh', '-T' }
  local function add(...)
    for _, word in ipairs { ... } do command[#command + 1] = word end
  end
  local function set(name, value) add('-o', name .. '=' .. tostring(value)) end
  set('BatchMode', 'yes')
  set('ConnectTimeout', max(1, floor(allocation.timeout)))
  set('ServerAliveInterval', max(1, floor(lease / QUESTIONS)))
  set('ServerAliveCountMax', QUESTIONS)
  set('ClearAllForwardings', 'yes')
  set('ForwardX11', 'no')
  set('RemoteCommand', 'none')
  if machine.config then add('-F', machine.config) end
  if machine.identity then
    add('-i', machine.identity)
    set('IdentitiesOnly', 'yes')
  end
  if machine.host_key then
    set('UserKnownHostsFile', path_value(known_hosts(machine.host_key)))
    set('GlobalKnownHostsFile', '/dev/null')
    set('StrictHostKeyChecking', 'yes')
    set('HostKeyAlias', OWN_NAME)
    set('CheckHostIP', 'no')
    set('UpdateHostKeys', 'no')
  end
  if port ~= '' then add('-p', port) end
  if user then add('-l', user) end
  local shell = core.nalloc_words()
  -- The user's shell reads the last word, and it may be any: each knows `exec`, and single quotes.
  add('--', host, ("exec sh -c '%s' yue %s"):format(shell, nonce))
  return command
end

function internal.carrier_schemes.ssh(allocation, address, machine)
  local nonce = yue.crypto.hex(yue.crypto.random(8))
  local command = ssh_command(allocation, address, machine, nonce)
  local words, variables, folder = internal.pack_command('nalloc', command)
  internal.warn_of_limits(allocation, 'over ssh')
  core.nalloc_carry_host(allocation.number, words, variables, folder, nonce, start_line(allocation.options))
end

internal.target_checks.ssh = check
