-- Files and directories, and watches of them. All of it waits without blocking the loop.
local core, yue, internal = ...
local type, pairs, pcall, error, tostring = type, pairs, pcall, error, tostring
local newproxy, getmetatable = newproxy, getmetatable
local sub, concat, match = string.sub, table.concat, string.match
local check_string = internal.check_string

-- The most that is read of a pipe or a device, which may never end.
local SPECIAL_MAX = 2 ^ 26

local fs = {}

--- Returns an object that calls `close(handle)` when nothing refers to it any more.
function internal.closer(close, handle)
  local guard = newproxy(true)
  getmetatable(guard).__gc = function() close(handle) end
  return guard
end

--- Raises unless the options are a table whose keys are all in `known`.
local function check_options(name, options, known)
  if options == nil then return {} end
  if type(options) ~= 'table' then
    internal.argument_error(('%s: the options are a table, not %s'):format(name, internal.describe_value(options)))
  end
  for key in pairs(options) do
    if not known[key] then
      local names = {}
      for each in pairs(known) do names[#names + 1] = each end
      table.sort(names)
      internal.argument_error(('%s has no option %s; it has: %s'):format(
        name, internal.to_text(key), concat(names, ', ')))
    end
  end
  return options
end
internal.check_options = check_options

local function check_path(name, path)
  if type(path) ~= 'string' then
    internal.argument_error(('%s takes a path, a string, not %s'):format(name, internal.describe_value(path)))
  end
  if path == '' then internal.argument_error(name .. ' takes a path, not an empty string') end
end

-- Named pipes, terminals and devices have natives of their own, whose waits end with their fiber.
local function read_special(path)
  local handle = core.special_open(path, false)
  local state = { next_chunk = function() return core.special_read(handle, path) end }
  local ok, text = pcall(internal.read, state, "'" .. path .. "'", '*a', SPECIAL_MAX)
  core.special_close(handle)
  if not ok then error(text, 0) end
  return text
end

local function write_special(path, text)
  local handle = core.special_open(path, true)
  local ok, e = pcall(core.special_write, handle, path, text)
  core.special_close(handle)
  if not ok then error(e, 0) end
end

--- The contents of a file.
function fs.read(path)
  check_path('yue.fs.read', path)
  if core.is_special(path) then return read_special(path) end
  return core.fs_read(path)
end

--- Makes `text` the contents of a file, which is created if it is missing.
function fs.write(path, text)
  check_path('yue.fs.write', path)
  if type(text) ~= 'string' then check_string('yue.fs.write: the text', text) end
  if core.is_special(path) then return write_special(path, text) end
  core.fs_write(path, text)
end

--- Adds `text` at the end of a file, which is created if it is missing.
function fs.append(path, text)
  check_path('yue.fs.append', path)
  if type(text) ~= 'string' then check_string('yue.fs.append: the text', text) end
  if core.is_special(path) then return write_special(path, text) end
  core.fs_append(path, text)
end

-- -- Lines ---------------------------------------------------------------------------------------------------------

--- Iterates over the lines of a file.
function fs.lines(path)
  check_path('yue.fs.lines', path)
  local is_special = core.is_special(path)
  local file = is_special and core.special_open(path, false) or core.fs_open(path)
  local next_chunk = is_special and core.special_read or core.fs_chunk
  local close = is_special and core.special_close or core.fs_close
  local state = { guard = internal.closer(close, file), at = 1 }
  function state.next_chunk()
    if not file then return nil end
    return next_chunk(file, path)
  end
  return function()
    local line = internal.next_line(state, "'" .. path .. "'")
    if line == nil and file then
      close(file)
      file = nil
    end
    return line
  end
end

-- -- Directories and facts -------------------------------------------------------------------------------------------

local LIST_OPTIONS, STAT_OPTIONS = { kinds = true }, { follow = true }
local REMOVE_OPTIONS, MKDIR_OPTIONS = { recursive = true }, { parents = true }

--- The names in a directory, sorted. With the option `kinds` also a table from each name to its kind.
function fs.list(path, options)
  check_path('yue.fs.list', path)
  options = check_options('yue.fs.list', options, LIST_OPTIONS)
  return core.fs_list(path, options.kinds)
end

--- Facts about a file; nil if there is none. `{ follow = false }` describes a link, not what it leads to.
function fs.stat(path, options)
  check_path('yue.fs.stat', path)
  options = check_options('yue.fs.stat', options, STAT_OPTIONS)
  local kind, size, mode, mtime, atime, ctime, uid, gid, inode, links = core.fs_stat(path, options.follow == false)
  if not kind then return nil end
  return {
    kind = kind, size = size, mode = mode, mtime = mtime, atime = atime, ctime = ctime, uid = uid, gid = gid,
    inode = inode, links = links,
  }
end

--- Whether there is a file or a directory at the path.
function fs.exists(path)
  check_path('yue.fs.exists', path)
  return core.fs_stat(path, false) ~= nil
end

--- Renames a file or a directory; a file at the new name is replaced in one step.
function fs.rename(from, to)
  check_path('yue.fs.rename', from)
  check_path('yue.fs.rename', to)
  core.fs_rename(from, to)
end

--- Removes a file or an empty directory; with `{ recursive = true }` a directory and all that is in it.
function fs.remove(path, options)
  check_path('yue.fs.remove', path)
  options = check_options('yue.fs.remove', options, REMOVE_OPTIONS)
  core.fs_remove(path, options.recursive)
end

--- Creates a directory; with `{ parents = true }` those above it too, and it may exist already.
function fs.mkdir(path, options)
  check_path('yue.fs.mkdir', path)
  options = check_options('yue.fs.mkdir', options, MKDIR_OPTIONS)
  core.fs_mkdir(path, options.parents)
end

--- Creates a directory of its own for temporary files, which is removed at the program's end. Returns its path.
function fs.temp()
  return core.fs_temp()
end

-- -- Watches ---------------------------------------------------------------------------------------------------------

local EVENTS = { 'change', 'create', 'remove', 'write', 'attributes', 'lost' }
-- The kernel tells these apart; a program wants to know of both.
local WORDS = { replace = { 'create', 'change' } }
for _, event in ipairs(EVENTS) do WORDS[event] = { event } end

local Watch = internal.emitter_class(EVENTS)
Watch.__tostring = function(self) return ("watch of '%s'%s"):format(self.path, self.closed and ' (closed)' or '') end

local function emit_all(watch, word, name)
  local events = WORDS[word]
  local path = name and watch.prefix .. name or watch.path
  for i = 1, #events do
    if watch.events[events[i]] then watch:emit(events[i], path) end
  end
end

local function run_watch(watch)
  while not watch.closed do
    local word, name = core.watch_next(watch.handle)
    if not word or watch.closed then break end
    if word == 'ended' then
      if watch.events.remove then watch:emit('remove', watch.path) end
      break
    end
    -- A watch of one file sees the whole directory.
    if word == 'lost' or not watch.name or watch.name == name then emit_all(watch, word, name) end
  end
  watch:close()
end

function Watch:on_close()
  core.watch_close(self.handle)
  if internal.current() ~= self.fiber then self.fiber:cancel() end
end

local function chosen_events(events)
  if events == nil then return Watch.events end
  local list = type(events) == 'table' and events or { events }
  local chosen = { lost = true }
  for i = 1, #list do
    local event = list[i]
    if type(event) ~= 'string' or not Watch.events[event] then
      internal.argument_error(('yue.fs has no event %s; it has: %s'):format(
        internal.to_text(event), concat(EVENTS, ', ')))
    end
    chosen[event] = true
  end
  if #list == 0 then internal.argument_error('yue.fs takes a path and an event, or a list of events') end
  return chosen
end

--- Watches a file, or the files in a directory. Emits the events with the path of the file. A file may be missing, or
--- be replaced: its directory is watched, because many programs write a new file and rename it.
local function watch_path(_, path, events)
  check_path('yue.fs', path)
  local chosen = chosen_events(events)
  local directory, name = path, nil
  local facts = fs.stat(path)
  if not facts or facts.kind ~= 'directory' then
    directory, name = match(path, '^(.*/)([^/]+)$')
    if not directory then directory, name = '.', match(path, '[^/]+') end
  end
  local prefix = name and sub(path, 1, #path - #name) or (sub(path, -1) == '/' and path or path .. '/')
  local handle = core.watch_open(directory, chosen.write or false, chosen.attributes or false)
  local watch = internal.new_emitter(Watch, {
    path = path, name = name, prefix = prefix, events = chosen, handle = handle,
  })
  watch.fiber = yue.fiber(run_watch, 'watch')
  watch.fiber.quiet, watch.fiber.own = true, 'waits'
  watch.fiber:run(watch)
  internal.adopt_current(watch)
  return watch
end

yue.fs = setmetatable(fs, { __call = watch_path })
