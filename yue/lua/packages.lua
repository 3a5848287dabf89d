-- The search paths of `require`: the current folder, the script's folder, the user's luarocks tree, LuaJIT's paths, and
-- the distribution's packages.
local core = ...

local ARCHITECTURES = { x64 = 'x86_64', arm64 = 'aarch64' }
local machine = ARCHITECTURES[jit.arch] or jit.arch

--- LuaJIT's own default: the text that it has put for each `;;` of the variable, or the whole.
local function default_of(value, set)
  if not set then return value end
  local rest, count = set:gsub(';;', ';;')
  -- Each `;;` became `;`, the default, and `;`.
  local length = (#value - #rest) / count
  local start = set:find(';;', 1, true)
  return value:sub(start + 1, start + length)
end

-- `before` and `after` are folders; LuaJIT's default comes between them.
local function extend(variable, field, before, after, suffixes)
  -- The user's setting; the defaults (Lua's, and so yue's) apply only where it has `;;`.
  local set = os.getenv(variable)
  if set and not set:find(';;', 1, true) then return end
  local patterns, known = {}, {}
  local function add(pattern)
    if not known[pattern] then
      known[pattern] = true
      patterns[#patterns + 1] = pattern
    end
  end
  local function add_folders(folders)
    for _, folder in ipairs(folders) do
      -- Both have a meaning in a path, and cannot be escaped.
      if not folder:find('[;?]') then
        for _, suffix in ipairs(suffixes) do add(folder .. suffix) end
      end
    end
  end
  add_folders(before)
  for pattern in default_of(package[field], set):gmatch('[^;]+') do add(pattern) end
  add_folders(after)
  local all = table.concat(patterns, ';')
  package[field] = set and set:gsub(';;', function() return ';' .. all .. ';' end):gsub('^;', ''):gsub(';$', '') or all
end

local home = os.getenv('HOME')
local function own(kind)
  local folders = { '.' }
  if core.script_folder ~= '' then folders[#folders + 1] = core.script_folder end
  if home and home ~= '' then folders[#folders + 1] = home .. '/.luarocks/' .. kind .. '/lua/5.1' end
  return folders
end

extend('LUA_PATH', 'path', own 'share', { '/usr/share/lua/5.1' }, { '/?.lua', '/?/init.lua' })
extend('LUA_CPATH', 'cpath', own 'lib', {
  '/usr/lib/' .. machine .. '-linux-gnu/lua/5.1',
  '/usr/lib64/lua/5.1',
  '/usr/lib/lua/5.1',
}, { '/?.so' })
