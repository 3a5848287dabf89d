-- The console: runs code that a person types, and shows its results. `yue -i` and `yue console` call it from Rust, in a
-- fiber for each piece of code.
--
-- The code's globals are the program's: reads and writes go to `_G`. A session has a name of its own, `_`, the last
-- result, and, except for the program's own terminal, an `os.exit` that does not end the program.
local core, yue, internal = ...
local setmetatable, rawset, xpcall, loadstring, select, error =
  setmetatable, rawset, xpcall, loadstring, select, error
local wrap = internal.wrap

--- Compiles a text, which may be an expression, or begin with `=` as in Lua 5.1. Returns the function, and whether its
--- first result is to be dropped; or nil and the error. Bytecode is refused.
function internal.console_compile(text, name)
  local expression = text:match('^%s*=(.*)$')
  -- `return f()` would be a tail call, and an error of `f` would not name the line.
  local fn, message = loadstring('return nil, ' .. (expression or text), name, 't')
  if fn then return fn, true end
  if expression and expression:find('%S') then return nil, message end
  return loadstring(expression or text, name, 't')
end

--- The text of an error, without the calls that lead to the code, which are the prelude's.
function internal.console_error(e)
  local text = internal.report(e):gsub("\n%s*%[C%]: in function 'xpcall'\n.*$", '')
  return (text:gsub('\nstack traceback:$', ''))
end

-- -- Sessions --------------------------------------------------------------------------------------------------------

-- Environments, by the name of the session; above this number the least recently used one makes room.
local SESSIONS_MAX = 64
local sessions, turn = {}, 0

local function refuse_exit()
  error(yue.errors.RuntimeError.new(
    'os.exit would end the program: leave the console with Ctrl-D, or end the program with yue.die{}'
  ), 0)
end

local function new_environment(name)
  local environment = setmetatable({}, { __index = _G, __newindex = _G })
  if name ~= 'terminal' then
    local os = setmetatable({ exit = refuse_exit }, { __index = _G.os, __newindex = _G.os })
    rawset(environment, 'os', os)
  end
  return environment
end

local function make_room()
  local count, oldest = 0, nil
  for name, session in pairs(sessions) do
    count = count + 1
    if not oldest or session.turn < sessions[oldest].turn then oldest = name end
  end
  if count >= SESSIONS_MAX then sessions[oldest] = nil end
end

local function environment_of(name)
  -- Nobody knows the name of such a session.
  if name:sub(1, 1) == '#' then return new_environment(name) end
  local session = sessions[name]
  if not session then
    make_room()
    session = { environment = new_environment(name) }
    sessions[name] = session
  end
  turn = turn + 1
  session.turn = turn
  return session.environment
end

-- -- Evaluation ------------------------------------------------------------------------------------------------------

local function failed(e)
  return 0, internal.bounded_text(internal.console_error(e))
end

local function show(environment, width, ...)
  if select('#', ...) == 0 then return 1, '' end
  rawset(environment, '_', (...))
  -- It may call `__tostring` of the program.
  local ok, text = xpcall(internal.pretty_results, wrap, width, ...)
  if not ok then return failed(text) end
  return 1, text
end

local function finish(environment, width, drops_first, ok, ...)
  if not ok then return failed((...)) end
  if drops_first then return show(environment, width, select(2, ...)) end
  return show(environment, width, ...)
end

local JOBS = {}

--- Returns 1 and the results as text, or 0 and the error.
function JOBS.evaluate(environment, text, width)
  local fn, drops_first = internal.console_compile(text, '=console')
  if not fn then return failed(drops_first) end
  setfenv(fn, environment)
  return finish(environment, width, drops_first, xpcall(fn, wrap))
end

--- Returns 1 and lines: the position of the word that is completed, and the candidates.
function JOBS.complete(environment, text)
  return 1, internal.complete_line(environment, text)
end

--- Called by Rust: does a job for the evaluation with this number.
function internal.console(job, number, session, text, width)
  core.mark_evaluation(number)
  return JOBS[job](environment_of(session), text, width)
end
