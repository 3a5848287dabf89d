-- The interactive mode (`yue -i`): reads Lua from standard input, runs it, and prints the results. Only the fiber that
-- reads waits: servers, timers and fibers that the lines start run meanwhile.
local core, yue, internal = ...
local xpcall, loadstring, select = xpcall, loadstring, select

--- Compiles a text, which may be an expression, or begin with `=` as in Lua 5.1. Returns the function, or nil and the
--- error.
local function compile(text)
  local expression = text:match('^%s*=(.*)$')
  local fn, message = loadstring('return ' .. (expression or text), '=stdin')
  if fn or expression then return fn, message end
  return loadstring(text, '=stdin')
end

local function prompt(name, default)
  local text = rawget(_G, name)
  io.stdout:write(text == nil and default or internal.to_text(text))
  io.stdout:flush()
end

--- Returns the next complete piece as a function; or false and the error; nil at the end.
local function read()
  prompt('_PROMPT', '> ')
  local text = core.read_line()
  while text do
    local fn, message = compile(text)
    if fn then return fn end
    if not message:find("'<eof>'", 1, true) then return false, message end
    prompt('_PROMPT2', '>> ')
    local more = core.read_line()
    if not more then return false, message end
    text = text .. '\n' .. more
  end
end

local function complain(e)
  -- Without the calls that lead to it, which are the prelude's; nothing may be left.
  local text = internal.report(e):gsub("\n%s*%[C%]: in function 'xpcall'\n.*$", ''):gsub('\nstack traceback:$', '')
  io.stderr:write(text, '\n')
end

local function show(ok, ...)
  if not ok then return complain((...)) end
  if select('#', ...) == 0 then return end
  local printed, e = xpcall(_G.print, internal.wrap, ...)
  if not printed then complain(e) end
end

--- Runs until the end of standard input.
function internal.repl()
  io.stdout:write('yue ', yue.version, ', ', jit.version, '\n')
  while true do
    local fn, message = read()
    if fn == nil then break end
    if fn then show(xpcall(fn, internal.wrap)) else complain(message) end
  end
  io.stdout:write('\n')
end
