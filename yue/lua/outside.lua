-- What a simulation does not contain: files, child processes, C libraries. A call of it raises an error that names the
-- call, because a run would depend on more than its seed. `core.allowed` lists what the simulation lets through.
local core, yue = ...
local error, setmetatable, ipairs, pairs = error, setmetatable, ipairs, pairs
local ffi = require 'ffi'

local allowed = {}
for _, name in ipairs(core.allowed) do allowed[name] = true end

-- Whether the call, or the table that it is in, is let through: 'yue.fs.read' or 'yue.fs'.
local function is_allowed(name)
  return allowed[name] or allowed[name:match '^(.*)%.[^.]*$' or name]
end

local function refuse(name, level)
  error(("%s is outside of the simulation; the simulation may allow '%s'"):format(name, name), level)
end

-- Replaces a function, unless it is let through. The error has the position of the caller, except in the prelude.
local function shut(container, key, name)
  if container[key] == nil or is_allowed(name) then return end
  local level = container == core and 0 or 3
  container[key] = function() refuse(name, level) end
end

-- -- Lua's own library ---------------------------------------------------------------------------------------------

for _, key in ipairs { 'execute', 'remove', 'rename', 'tmpname' } do shut(_G.os, key, 'os.' .. key) end
for _, key in ipairs { 'popen', 'tmpfile', 'open' } do shut(_G.io, key, 'io.' .. key) end

-- The standard streams stay: a simulated host's output is collected, and its input is empty.
for _, key in ipairs { 'lines', 'input', 'output' } do
  local name, real = 'io.' .. key, _G.io[key]
  if not is_allowed(name) then
    _G.io[key] = function(file, ...)
      if type(file) == 'string' then refuse(name, 3) end
      return real(file, ...)
    end
  end
end

local setlocale = _G.os.setlocale
_G.os.setlocale = function(locale, ...)
  -- It would change the process, and so all hosts.
  if locale ~= nil and not is_allowed 'os.setlocale' then refuse('os.setlocale', 3) end
  return setlocale(locale, ...)
end

--- Ends the host's process at once.
function _G.os.exit(code)
  core.simulated_exit(code == nil and 0 or code == true and 0 or code == false and 1 or tonumber(code) or 1)
  -- The end cancels this wait.
  core.sleep(1e9)
end

-- -- C ---------------------------------------------------------------------------------------------------------------

shut(package, 'loadlib', 'package.loadlib')
shut(ffi, 'load', 'ffi.load')
if not is_allowed 'ffi.C' then
  local function refuse_symbol(_, key)
    error(("ffi.C.%s is outside of the simulation; the simulation may allow 'ffi.C'"):format(tostring(key)), 2)
  end
  ffi.C = setmetatable({}, { __index = refuse_symbol, __newindex = refuse_symbol })
end
if not is_allowed 'package.loadlib' then
  -- The loaders of C modules, behind that of `package.preload` and that of Lua files.
  for i = #package.loaders, 3, -1 do package.loaders[i] = nil end
end

-- -- The API ---------------------------------------------------------------------------------------------------------

-- The natives: the prelude looks them up when it calls them.
local NATIVES = {
  fs_read = 'yue.fs.read', fs_write = 'yue.fs.write', fs_append = 'yue.fs.append', fs_open = 'yue.fs.lines',
  fs_list = 'yue.fs.list', fs_stat = 'yue.fs.stat', fs_rename = 'yue.fs.rename', fs_remove = 'yue.fs.remove',
  fs_mkdir = 'yue.fs.mkdir', fs_temp = 'yue.fs.temp', watch_open = 'yue.fs', special_open = 'yue.fs.read',
  process_run = 'yue.process.run', process_spawn = 'yue.process.spawn', http_file = 'yue.http.files',
}
for native, name in pairs(NATIVES) do shut(core, native, name) end
