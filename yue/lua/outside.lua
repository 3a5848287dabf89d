-- What a simulation does not contain: child processes and C libraries. A call of it raises an error that names the
-- call, because a run would depend on more than its seed. `core.allowed` lists what the simulation lets through.
local core = ...
local error, setmetatable, ipairs, tostring, tonumber = error, setmetatable, ipairs, tostring, tonumber
local ffi = require 'ffi'

local allowed = {}
for _, name in ipairs(core.allowed) do allowed[name] = true end

-- Whether the call, or the table that it is in, is let through: 'yue.process.run' or 'yue.process'.
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

shut(_G.os, 'execute', 'os.execute')
shut(_G.io, 'popen', 'io.popen')

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
shut(core, 'process_run', 'yue.process.run')
shut(core, 'process_spawn', 'yue.process.spawn')
