-- The globals that the rest of the prelude sees: a copy, made before the program runs. A program may give `select`,
-- `table` or `string` a meaning of its own, or empty the library's tables; nothing of ours is to break by that.
-- (Methods of strings are looked up in the library's own table `string`, by us as by everybody.)
-- What the program itself must see (its `print`, its `tostring`) is reached by `_G`, which is the real one.
local _, _, internal = ...

local environment = {}
for name, value in pairs(_G) do environment[name] = value end
-- `package` stays the program's: `path` and `loaded` mean something to others.
for _, name in ipairs { 'bit', 'coroutine', 'debug', 'io', 'jit', 'math', 'os', 'string', 'table' } do
  local copy = {}
  for field, value in pairs(_G[name]) do copy[field] = value end
  environment[name] = copy
end
internal.environment = environment
