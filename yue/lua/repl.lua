-- The interactive mode (`yue -i`): reads Lua from standard input, runs it, and prints the results. Only the fiber that
-- reads waits: servers, timers and fibers that the lines start run meanwhile. At a terminal the program has a thread
-- that does all this instead, by the console.
local core, yue, internal = ...
local pcall, xpcall, error, select = pcall, xpcall, error, select

local function prompt(name, default)
  local text = rawget(_G, name)
  io.stdout:write(text == nil and default or internal.to_text(text))
  io.stdout:flush()
end

-- The next line of standard input, also as Windows ends it.
local function next_line()
  local line = yue.stdin:line()
  return line and line:gsub('\r$', '') or nil
end

--- Returns the next complete piece as `console_compile` does; or false and the error; nil at the end.
local function read()
  prompt('_PROMPT', '> ')
  local text = next_line()
  while text do
    local fn, message = internal.console_compile(text, '=stdin')
    if fn then return fn, message end
    if not message:find("'<eof>'", 1, true) then return false, message end
    prompt('_PROMPT2', '>> ')
    local more = next_line()
    if not more then return false, message end
    text = text .. '\n' .. more
  end
end

local function complain(e)
  io.stderr:write(internal.console_error(e), '\n')
end

--- Whether the error was caused by the end of the program (Ctrl-C), which the user has requested.
local function is_end(e)
  return internal.is_error(e) and e:is_a('CancelledError') and core.shutting_down()
end

local function show(ok, ...)
  if not ok then
    if not is_end((...)) then complain((...)) end
    return
  end
  if select('#', ...) == 0 then return end
  local printed, e = xpcall(_G.print, internal.wrap, ...)
  if not printed then complain(e) end
end

local function show_but_first(ok, first, ...)
  if ok then show(ok, ...) else show(ok, first) end
end

--- Runs until the end of standard input, or of the program.
function internal.repl()
  if core.run_terminal() then
    core.die(0)
    return
  end
  io.stdout:write('yue ', yue.version, ', ', jit.version, '\n')
  while not core.shutting_down() do
    local ok, fn, more = pcall(read)
    if not ok and not is_end(fn) then error(fn, 0) end
    if not ok or fn == nil then break end
    if not fn then
      complain(more)
    elseif more then
      show_but_first(xpcall(fn, internal.wrap))
    else
      show(xpcall(fn, internal.wrap))
    end
  end
  io.stdout:write('\n')
end
