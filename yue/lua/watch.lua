-- `yue -w`: reloads the modules and files of symbols when they change.
--
-- Each VM watches the folders of its own files; of the loops that run one script the first does it for all. A reload is
-- one of all loops, so the others that see the same change find nothing to do.
local core, yue, internal = ...
local pairs, pcall, match = pairs, pcall, string.match

if not core.watches_files or (core.role == 'main' and core.index ~= 1) then return end

--- Seconds without a change before files are read: editors and tools write several in a row. And the longest time that
--- changes may put it off.
local QUIET, QUIET_MAX = 0.05, 1

local development = internal.development
local script = core.role == 'main' and core.script
local script_hash
local changes = 0
local wait -- of the fiber that reloads

local function wake()
  changes = changes + 1
  if wait then core.wake(wait) end
end

-- Called after each load: there may be a new folder.
internal.files_changed = wake

local function folder_of(path)
  return match(path, '^(.*)/[^/]*$') or '.'
end

local function watch_folder(folder)
  internal.watch_folder(folder == '' and '/' or folder, wake, true)
end

local function hash_of_script()
  local file = script and io.open(script, 'rb')
  local text = file and file:read '*a'
  if file then file:close() end
  return text and core.sha256(text)
end

local function park(seconds)
  wait = core.prepare()
  local woken, stopped = core.park(wait, 'changed files', seconds)
  wait = nil
  if woken == nil then error(stopped, 0) end
end

local function report(done)
  local older = 0
  for version, names in pairs(done.fibers) do
    if version ~= done.version then older = older + names.count end
  end
  local text = ('reloaded %s: version %d'):format(table.concat(done.modules, ', '), done.version)
  if older > 0 then text = ('%s; fibers that still run older code: %d'):format(text, older) end
  internal.log('info', text)
end

-- Another VM of the program has noticed the change first.
internal.note_reload = report

local failed = false -- the last reload

local function reload()
  local ok, done = pcall(yue.reload)
  if ok then
    if development then development.show('reload', nil) end
    if #done.modules > 0 then
      report(done)
    elseif failed then
      internal.log('info', 'the files are again those that the program runs')
    end
    failed = false
    return
  end
  failed = true
  if internal.is_error(done) and done:is_a 'CancelledError' then error(done, 0) end
  local text = internal.to_text(internal.is_error(done) and done.msg or done)
  -- LuaJIT's messages about files have several lines.
  text = text:gsub('%s*\n%s*', ' ')
  -- Another loop or thread that watches the same file may have logged it.
  if not (development and development.is_shown('reload', text)) then internal.log('error', text) end
  if development then development.show('reload', text) end
end

--- Under `yue dev`, which restarts the program if the script compiles.
local function check_syntax_of_script()
  local _, text = loadfile(script)
  if text then internal.log('error', 'not restarted: ' .. text) end
  development.show('script', text)
end

local function check_script()
  local hash = hash_of_script()
  -- While an editor replaces the file there is none.
  if not hash or hash == script_hash then return end
  script_hash = hash
  if development then return check_syntax_of_script() end
  internal.log('warn', ('%s itself has changed: restart the program to apply it'):format(script))
end

core.spawn_daemon(function()
  internal.mark_helper(true)
  script_hash = hash_of_script()
  if script then watch_folder(folder_of(script)) end
  local seen = -1
  while not core.shutting_down() do
    if seen == changes then park() end
    local latest = core.clock() + QUIET_MAX
    repeat
      seen = changes
      core.sleep(QUIET)
    until seen == changes or core.clock() > latest
    seen = changes
    -- Before the files are read: a change after that is then noticed.
    internal.each_file(function(path) watch_folder(folder_of(path)) end)
    reload()
    check_script()
  end
end)
