-- Shared structures: C structs in memory that all threads of the process see.
--
-- `yue.shared.name = { declaration, init }` creates one; the first thread that does so runs `init`, the others wait for
-- it. Each VM has its own C type of the declaration, and a reference to the same memory.
local core, yue, internal = ...
local type, error, tostring = type, error, tostring
local ffi = require 'ffi'

local NAME_MAX = 255

local known = {} -- references by name

local function check_name(name)
  if type(name) ~= 'string' or name == '' or #name > NAME_MAX then
    internal.argument_error(('the name of a shared struct is a string of up to %d bytes'):format(NAME_MAX))
  end
end

--- The C type of a declaration, and its size.
local function type_of(name, declaration)
  local ok, ctype = pcall(ffi.typeof, declaration)
  if not ok then
    internal.argument_error(("yue.shared.%s: the declaration is not valid C: %s"):format(name, tostring(ctype)))
  end
  local size = ffi.sizeof(ctype)
  if not size or size == 0 then internal.argument_error(('yue.shared.%s: the struct has no size'):format(name)) end
  return ctype, size
end

local function reference_to(ctype, address)
  return ffi.cast(ffi.typeof('$ *', ctype), ffi.cast('uintptr_t', address))[0]
end

local function check_declaration(name, value)
  local declaration, init
  if type(value) == 'table' then declaration, init = value[1], value[2] end
  local is_struct = type(declaration) == 'string'
    and (declaration:find '^%s*struct%f[^%w_]' or declaration:find '^%s*union%f[^%w_]')
  if not is_struct then
    local text = "yue.shared.%s takes { declaration, init }: a C struct, such as 'struct { int hits; }', and a function"
    internal.argument_error(text:format(name))
  end
  if init ~= nil and not internal.is_callable(init) then
    internal.argument_error(('yue.shared.%s: init is a function that fills the struct'):format(name))
  end
  return declaration, init
end

local function declare(_, name, value)
  check_name(name)
  local declaration, init = check_declaration(name, value)
  local ctype, size = type_of(name, declaration)
  local address, is_new = core.shared_begin(name, declaration, size)
  local reference = reference_to(ctype, address)
  if is_new then
    local ok, e = true, nil
    if init then ok, e = xpcall(init, internal.wrap, reference) end
    core.shared_end(name, ok)
    if not ok then error(e, 0) end
  end
  known[name] = reference
end

--- The struct of that name, which any thread may have declared; nil if none has.
local function find(_, name)
  local reference = known[name]
  if reference ~= nil then return reference end
  if type(name) ~= 'string' then return nil end
  local address, declaration = core.shared_find(name)
  if not address then return nil end
  reference = reference_to((type_of(name, declaration)), address)
  known[name] = reference
  return reference
end

yue.shared = setmetatable({}, { __index = find, __newindex = declare })
