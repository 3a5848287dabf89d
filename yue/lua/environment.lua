-- The globals that the rest of the prelude sees: a copy, made before the program runs. A program may redefine `select`,
-- `table` or `string`, or empty the library's tables; the prelude must not break because of that.
-- (Methods of strings are looked up in the library's own table `string`, by the prelude as by everybody.)
-- The prelude reaches the program's globals (its `print`, its `tostring`) by `_G`, which is the real one.
local _, _, internal = ...

local environment = {}
for name, value in pairs(_G) do environment[name] = value end
-- `package` stays the program's: other code uses `path` and `loaded`.
for _, name in ipairs { 'bit', 'coroutine', 'debug', 'io', 'jit', 'math', 'os', 'string', 'table' } do
  local copy = {}
  for field, value in pairs(_G[name]) do copy[field] = value end
  environment[name] = copy
end
internal.environment = environment
