-- Functions of Lua's own libraries that would block the loop, replaced by ones that wait in the calling fiber; and the
-- standard input.
local core, yue, internal = ...
local type, pcall, error = type, pcall, error
local concat, match = table.concat, string.match

local execute = os.execute

--- `os.execute`, with the results of Lua 5.1: the status as the C function `system` returns it. Where a fiber must not
--- wait, in a finalizer for example, it is Lua's own. The command is killed when the fiber is stopped.
function _G.os.execute(command)
  local kind = type(command)
  if (kind ~= 'string' and kind ~= 'number') or not core.may_suspend() then return execute(command) end
  -- The C function sees the text up to the first zero byte.
  local words = concat({ '/bin/sh', '-c', match(command, '^%Z*'), '' }, '\0')
  local child = core.process_spawn(words, '', '', 'inherit', 'inherit', 'inherit')
  local ok, code, signal = pcall(core.process_wait, child)
  if not ok then core.process_kill(child, 9) end
  core.process_close(child)
  if not ok then error(code, 0) end
  return code and code * 256 or signal
end

--- The program's standard input.
yue.stdin = internal.new_reader('the standard input', core.stdin_read)
