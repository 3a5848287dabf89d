-- The answer to `$yue/describe`: the functions that a peer may call, with their parameters and comments.
--
-- A peer learns what the program's author wrote for callers: names, parameters, and the comment above a function, and
-- the comments that declare the types which it mentions (`---@class`, `---@alias`). It learns nothing of files and
-- lines.
local core, yue, internal = ...
local type, next, rawget, ipairs, sort, concat = type, next, rawget, ipairs, table.sort, table.concat
local getinfo, getlocal, open = debug.getinfo, debug.getlocal, io.open

--- Limits of one answer: functions, tables inside of tables, and table fields looked at.
local FUNCTIONS_MAX = 4096
local DEPTH_MAX = 16
local FIELDS_MAX = 16384

--- Limits of what is read for the comments: the bytes of a source file, and of one comment.
local FILE_BYTES_MAX = 1024 * 1024
local COMMENT_BYTES_MAX = 4096

--- Limits of the types in one answer: their number, and the bytes of their comments.
local TYPES_MAX = 1024
local TYPES_BYTES_MAX = 256 * 1024

-- By function: `{ doc = its comment or nil, types = the comments of its file that declare types, by name }`. A function
-- never gets another one, so its file is read once.
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

--- The text of a line comment, without its dashes; nil if the line is none.
local function text_of_comment(line) return line:match('^%s*%-%-+%s?(.-)%s*$') end

--- The comments that declare types, by the types' names. Each begins with its `@class` or `@alias` and ends before the
--- next one, or with its block of comments. One that is too long is left out, and so is a type that two comments
--- declare.
local function types_of(lines)
  local types, name, parts = {}, nil, nil
  local function finish()
    if not name then return end
    local comment = concat(parts, '\n')
    -- Half a class would be another class.
    types[name] = types[name] == nil and #comment <= COMMENT_BYTES_MAX and comment or false
    name = nil
  end
  for i = 1, #lines do
    local text = text_of_comment(lines[i])
    local declared = text and (text:match('^@class%s+([%w_.]+)') or text:match('^@class%s+%b()%s*([%w_.]+)')
      or text:match('^@alias%s+([%w_.]+)'))
    if not text or declared then finish() end
    if declared then name, parts = declared, {} end
    if name then parts[#parts + 1] = text end
  end
  finish()
  return types
end

--- The line comments that end right above line `at`, without their dashes; nil if there are none.
local function comment_above(lines, at)
  -- A file that has changed since it was loaded: the comment would be another function's.
  if not (lines[at] or ''):find('function', 1, true) then return nil end
  local first = at
  while first > 1 and lines[first - 1]:find('^%s*%-%-') do first = first - 1 end
  if first == at then return nil end
  local parts = {}
  for i = first, at - 1 do parts[#parts + 1] = text_of_comment(lines[i]) end
  local comment = concat(parts, '\n')
  return #comment <= COMMENT_BYTES_MAX and comment or comment:sub(1, COMMENT_BYTES_MAX)
end

local function describe_function(name, fn, files)
  local info = getinfo(fn, 'Su')
  -- Functions of C do not say what they take.
  local params = info.what ~= 'C' and core.array {} or nil
  for i = 1, params and info.nparams or 0 do params[i] = getlocal(fn, i) end
  if comments[fn] == nil then
    local comment = {}
    if info.what ~= 'C' then
      local file = files[info.source]
      if not file then
        local lines = lines_of(info.source)
        file = { lines = lines, types = types_of(lines) }
        files[info.source] = file
      end
      comment.doc = comment_above(file.lines, info.linedefined)
      comment.types = comment.doc and file.types
    end
    comments[fn] = comment
  end
  return {
    name = name,
    params = params,
    vararg = params and info.isvararg or nil,
    doc = comments[fn].doc,
  }, comments[fn]
end

--- Collects the types that annotations mention, and those that these types mention.
local function type_collector()
  local found, bytes, complete = {}, 0, true
  local by_name = {}
  local function collect(doc, types)
    for line in (doc .. '\n'):gmatch('([^\n]*)\n') do
      -- Text for people mentions no types.
      for name in (line:find('^[@|]') and line or ''):gmatch('[%a_][%w_.]*') do
        local comment = types[name]
        if comment and by_name[name] == nil then
          if #found >= TYPES_MAX or bytes + #comment > TYPES_BYTES_MAX then
            complete = false
          else
            by_name[name] = { name = name, doc = comment }
            found[#found + 1] = by_name[name]
            bytes = bytes + #comment
            collect(comment, types)
          end
        elseif comment and by_name[name] and by_name[name].doc ~= comment then
          -- Two files mean different types by one name: an answer that picked one would be wrong for the other.
          by_name[name].doc = ''
        end
      end
    end
  end
  local function result()
    local kept = {}
    for _, entry in ipairs(found) do
      if entry.doc ~= '' then kept[#kept + 1] = entry end
    end
    sort(kept, function(a, b) return a.name < b.name end)
    return kept, complete
  end
  return collect, result
end

--- Describes what a call finds in these layers: see the lookup in `lookup.rs`.
function internal.describe(layers)
  local found, seen, fields, complete, files = {}, {}, 0, true, {}
  local collect, collected = type_collector()
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
            local comment
            found[#found + 1], comment = describe_function(name, value, files)
            if comment.doc then collect(comment.doc, comment.types) end
          end
        elseif type(value) == 'table' and not internal.is_module(value) then
          if depth < DEPTH_MAX then walk(value, name .. '.', depth + 1) else complete = false end
        end
      end
    end
  end
  for i = #layers, 1, -1 do walk(layers[i], '', 1) end
  sort(found, function(a, b) return a.name < b.name end)
  local types, has_all_types = collected()
  return {
    functions = core.array(found),
    types = #types > 0 and core.array(types) or nil,
    more = not (complete and has_all_types) or nil,
  }
end

--- The functions that the peer lets this side call: a list of `{ name, params, vararg, doc }`, sorted by name. A second
--- result is true if the peer has more than it lists. The third one is a list of the types that the comments mention:
--- `{ name, doc }`.
function internal.Connection:describe()
  local answer = self.procs['$yue/describe']()
  if type(answer) ~= 'table' or type(answer.functions) ~= 'table' then
    error(yue.errors.RPCError.new('the peer does not describe itself: it is not a yue peer'), 0)
  end
  return answer.functions, answer.more == true, type(answer.types) == 'table' and answer.types or {}
end
