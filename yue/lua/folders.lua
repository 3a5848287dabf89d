-- Watches of folders, for `yue -w` and development mode.
--
-- A watch of the kernel belongs to a folder, not to its path: it ends when the folder is removed or renamed. Where the
-- folder shall be watched for as long as the program runs, the fiber then looks for a new one at the path.
local core, yue, internal = ...
local pcall, ipairs = pcall, ipairs

if not (core.watches_files or core.development_script) then return end

--- Seconds between two looks for a folder that is missing.
local RETURN = 0.1

local watched = {} -- { listeners…, stays }, by folder

local function notify(watch, name)
  for i = 1, #watch do watch[i](name) end
end

--- Opens a watch; nil if that fails. A folder that is missing is not worth a line in the log.
local function open(folder, watch)
  local ok, handle = pcall(core.watch_open, folder, false, false)
  if ok then return handle end
  if internal.is_error(handle) and handle.code == 'ENOENT' or watch.has_warned then return nil end
  watch.has_warned = true
  internal.log('warn', ('changes in %s are not noticed: %s'):format(folder, internal.to_text(handle)))
end

--- Waits until there is a folder at the path; nil at the program's end.
local function open_later(folder, watch)
  while not core.shutting_down() do
    core.sleep(RETURN)
    local handle = open(folder, watch)
    if handle then return handle end
  end
end

--- Passes the changes on until the folder is gone. Returns false if the watch itself has ended.
local function pass_changes(handle, watch)
  local alive, word, name
  repeat
    alive, word, name = pcall(core.watch_next, handle)
    if alive and word and word ~= 'ended' then notify(watch, name) end
  until not alive or not word or word == 'ended'
  core.watch_close(handle)
  return word == 'ended'
end

local function run(folder, handle, watch)
  internal.mark_helper(true)
  repeat
    if not handle then
      handle = open_later(folder, watch)
      if not handle then break end
      -- Its files are new.
      notify(watch)
    end
    local is_gone = pass_changes(handle, watch)
    handle = nil
    -- Before the listeners are called, which may watch it again.
    if not (is_gone and watch.stays) then watched[folder] = nil end
    if is_gone then notify(watch) end
  until watched[folder] ~= watch
  internal.mark_helper(false)
end

--- Calls `listener(name)` when a file in the folder has changed; without a name if it is not known which, and when the
--- folder is gone. A folder that `stays` is watched until the program ends, even if it is missing for a while. A
--- listener is added once, and must not wait.
function internal.watch_folder(folder, listener, stays)
  local watch = watched[folder]
  if not watch then
    watch = {}
    local handle = open(folder, watch)
    if not handle and not stays then return end
    watched[folder] = watch
    core.spawn_daemon(function() return run(folder, handle, watch) end)
  end
  watch.stays = watch.stays or stays
  for _, other in ipairs(watch) do
    if other == listener then return end
  end
  watch[#watch + 1] = listener
end
