-- The carriers of `docker://image` and `podman://image`: a node in a container of any image. This program is mounted
-- into it; so are its libraries if the image's do not fit.
local core, yue, internal = ...
local type, pairs, ipairs, tostring = type, pairs, ipairs, tostring

local function fail(text) internal.argument_error('yue.nalloc: ' .. text) end

local FOLDER = '/.yue/' -- of the mounted files
local LOADER = 'ld.so' -- the name of the first library

--- Checks the parts of a target that docker and podman read.
local function check(image, machine)
  if not image:find('^[%w][%w._/:@-]*$') then
    fail(("'%s' is not the name of an image, such as 'debian:12'"):format(image))
  end
  local arguments = machine.arguments
  if arguments == nil then return end
  if type(arguments) ~= 'table' then
    fail("the field arguments of a target is a list of words, such as { '--network', 'none' }")
  end
  for i, word in pairs(arguments) do
    if type(i) ~= 'number' or type(word) ~= 'string' then fail('the field arguments of a target is a list of words') end
  end
end

--- The command that starts a node in a container.
local function run_command(program, allocation, image, name, nonce, libraries)
  local options = allocation.options
  local command = { program, 'run', '--interactive', '--rm', '--name', name }
  local function add(...)
    for _, word in ipairs { ... } do command[#command + 1] = word end
  end
  local function mount(path, as)
    if path:find('[,"\n]') then
      fail(("%s cannot mount '%s': a comma or a quote is in its name"):format(program, path))
    end
    add('--mount', ('type=bind,source=%s,target=%s,readonly'):format(path, FOLDER .. as))
  end
  local words = internal.own_words()
  mount(words[#words], 'yue')
  for as, path in pairs(libraries or {}) do mount(path, as) end
  if allocation.memory then add('--memory', ('%.0fb'):format(allocation.memory)) end
  if options.cpu then add('--cpus', tostring(options.cpu)) end
  if options.directory then add('--workdir', options.directory) end
  for key, value in pairs(options.env or {}) do
    -- A variable of the image cannot be removed, but emptied.
    add('--env', key .. '=' .. (value == false and '' or tostring(value)))
  end
  for _, word in ipairs((allocation.machine or {}).arguments or {}) do add(word) end
  if libraries then
    add('--entrypoint', FOLDER .. LOADER, image, '--library-path', FOLDER, FOLDER .. 'yue')
  else
    add('--entrypoint', FOLDER .. 'yue', image)
  end
  add('node', '--greeting', nonce)
  return command
end

--- The files of this program's libraries, by name.
local function own_libraries()
  local found = {}
  for name, path in core.nalloc_libraries():gmatch('(%Z+)%z(%Z+)%z') do found[name] = path end
  return found
end

local function carry(program, allocation, image)
  local nonce = yue.crypto.hex(yue.crypto.random(8))
  local name = 'yue-' .. nonce
  local function packed(libraries, suffix)
    local command = run_command(program, allocation, image, name .. suffix, nonce, libraries)
    return (internal.pack_command('nalloc', command))
  end
  local remove = internal.pack_command('nalloc', { program, 'rm', '--force', name, name .. '-2' })
  core.nalloc_carry_container(
    allocation.number, packed(nil, ''), packed(own_libraries(), '-2'), remove, nonce, program .. ' ' .. image,
    allocation.memory or 0)
end

for _, program in ipairs { 'docker', 'podman' } do
  internal.carrier_schemes[program] = function(...) carry(program, ...) end
  internal.target_checks[program] = check
end
