-- The answer to `$yue/describe`: the functions that a peer may call, with their parameters and comments.
--
-- A peer learns what the program's author wrote for callers: names, parameters, and the comment above a function. It
-- learns nothing of files and lines.
local core, yue, internal = ...
local type, next, rawget, sort, concat = type, next, rawget, table.sort, table.concat
local getinfo, getlocal, open = debug.getinfo, debug.getlocal, io.open

--- Limits of one answer: functions, tables inside of tables, and table fields looked at.
local FUNCTIONS_MAX = 4096
local DEPTH_MAX = 16
local FIELDS_MAX = 16384

--- Limits of what is read for the comments: the bytes of a source file, and of one comment.
local FILE_BYTES_MAX = 1024 * 1024
local COMMENT_BYTES_MAX = 4096

-- By function: its comment, or false. A function never gets another one, so its file is read once.
local comments = setmetatable({}, { __mode = 'k' })

--- The text of a chunk; nil if it cannot be read.
local function text_of(source)
  if source:sub(1, 1) == '=' then return nil end
  if source:sub(1, 1) ~= '@' then return source end
  local file = open(source:sub(2), 'r')
  if not file then return nil end
  local text = file:read(FILE_BYTES_MAX + 1)
  file:close()
  return text and #text <= FILE_BYTES_MAX and text or nil
end

local function lines_of(source)
  local lines = {}
  for line in ((text_of(source) or '') .. '\n'):gmatch('([^\n]*)\n') do lines[#lines + 1] = line end
  return lines
end

--- The line comments that end right above line `at`, without their dashes; false if there are none.
local function comment_above(lines, at)
  -- A file that has changed since it was loaded: the comment would be another function's.
  if not (lines[at] or ''):find('function', 1, true) then return false end
  local first = at
  while first > 1 and lines[first - 1]:find('^%s*%-%-') do first = first - 1 end
  if first == at then return false end
  local parts = {}
  for i = first, at - 1 do parts[#parts + 1] = lines[i]:match('^%s*%-%-+%s?(.-)%s*$') end
  local comment = concat(parts, '\n')
  return #comment <= COMMENT_BYTES_MAX and comment or comment:sub(1, COMMENT_BYTES_MAX)
end

local function describe_function(name, fn, files)
  local info = getinfo(fn, 'Su')
  -- Functions of C do not say what they take.
  local params = info.what ~= 'C' and core.array {} or nil
  for i = 1, params and info.nparams or 0 do params[i] = getlocal(fn, i) end
  if comments[fn] == nil then
    local comment = false
    if info.what ~= 'C' then
      local lines = files[info.source] or lines_of(info.source)
      files[info.source] = lines
      comment = comment_above(lines, info.linedefined)
    end
    comments[fn] = comment
  end
  return {
    name = name,
    params = params,
    vararg = params and info.isvararg or nil,
    doc = comments[fn] or nil,
  }
end

--- Describes what a call finds in these layers: see the lookup in `lookup.rs`.
function internal.describe(layers)
  local found, seen, fields, complete, files = {}, {}, 0, true, {}
  local function walk(t, prefix, depth)
    for key, value in next, t do
      fields = fields + 1
      if fields > FIELDS_MAX or #found >= FUNCTIONS_MAX then
        complete = false
        return
      end
      if type(key) == 'string' and key:sub(1, 1) ~= '_' and not key:find('.', 1, true) then
        local name = prefix .. key
        if type(value) == 'function' then
          if not seen[name] then
            seen[name] = true
            found[#found + 1] = describe_function(name, value, files)
          end
        elseif type(value) == 'table' and not internal.is_module(value) then
          if depth < DEPTH_MAX then walk(value, name .. '.', depth + 1) else complete = false end
        end
      end
    end
  end
  for i = #layers, 1, -1 do walk(layers[i], '', 1) end
  sort(found, function(a, b) return a.name < b.name end)
  return { functions = core.array(found), more = not complete and true or nil }
end

--- The functions that the peer lets this side call: a list of `{ name, params, vararg, doc }`, sorted by name. A second
--- result is true if the peer has more than it lists.
function internal.Connection:describe()
  local answer = self.procs['$yue/describe']()
  if type(answer) ~= 'table' or type(answer.functions) ~= 'table' then
    error(yue.errors.RPCError.new('the peer does not describe itself: it is not a yue peer'), 0)
  end
  return answer.functions, answer.more == true
end
