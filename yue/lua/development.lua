-- Development mode: a program under `yue dev`. The pages that it serves reload when their files change, and show
-- errors.
--
--   a page ── the tag of a script, added to HTML ──▶ /_yue/dev.js ── listens to ──▶ /_yue/dev, a stream of states:
--     { pages = the stamp of the files, styles = whether only style sheets have changed, error = a text or null,
--       failures = a list of { text, count } }
--
-- `error` is that of a reload, `failures` are those of the running program. A POST to /_yue/dev hides them.
-- Each VM watches the folders of its own `yue.http.files`. Errors of a reload are shown by the pages of all loops.
-- Without the mode, nothing here exists.
local core, yue, internal = ...
local type, pairs, ipairs, pcall, error, tostring, setmetatable =
  type, pairs, ipairs, pcall, error, tostring, setmetatable
local sub, find, lower, format, match = string.sub, string.find, string.lower, string.format, string.match

if not core.development_script then return end

--- Seconds without a change before pages are told: editors and tools write several files, or one in several steps. And
--- the longest time that changes may put it off.
local QUIET, QUIET_MAX = 0.05, 1
--- Seconds between two signs of life of a stream, and between two looks whether the program ends, or has failed.
local BEAT, TURN = 10, 0.1
--- Seconds between two states, or two lines of the log, that only have other counts of failures.
local COUNTS = 1
--- Whole collections after a failure that nobody has read: at the first, the fiber's stack may still refer to it.
local COLLECTIONS = 2
--- Larger folders are not pages that somebody edits.
local FILES_MAX, DEPTH_MAX = 2000, 16

local TAG = '\n<script src="/_yue/dev.js" data-pages="%s"></script>\n'
local PLACE, PLACE_OF_STREAM = '/_yue/dev.js', '/_yue/dev'

local development = {}
internal.development = development

local roots = {} -- the served folders
local stamp -- of all files that are served; nil: not known yet
local names = {} -- what has changed since the last look
local changes = 0
local wait -- of the fiber that waits for changes
local errors = {} -- texts, by what has failed
local streams = setmetatable({}, { __mode = 'k' })

-- -- Streams ---------------------------------------------------------------------------------------------------------

local function wake_streams(styles)
  for stream in pairs(streams) do
    -- A change of other files may not have been sent yet.
    stream.styles = styles and (stream.styles or not stream.news)
    stream.news = true
    if stream.wait then core.wake(stream.wait) end
  end
end

--- Shows the error of a kind in the pages of this loop; nil: there is none any more.
function development.show_here(what, text)
  if errors[what] == text then return end
  errors[what] = text
  wake_streams(true)
end

--- Whether pages show this error already.
function development.is_shown(what, text)
  return errors[what] == text
end

--- Shows it in the pages of all loops.
function development.show(what, text)
  if errors[what] == text then return end
  development.show_here(what, text)
  -- A loop that does not answer has no pages that could show it.
  pcall(core.reload_others, core.msgpack_encode { name = 'show', what = what, text = text })
end

--- Whether failures were added or removed since the stream's last state; or some time ago, whether there were more.
local function has_failures(stream)
  local changes, noted = core.development_changes()
  return changes ~= stream.changes or noted ~= stream.noted and core.clock() - stream.sent >= COUNTS
end

local function state_of(stream)
  local text = errors.script or errors.reload
  stream.sent = core.clock()
  stream.changes, stream.noted = core.development_changes()
  local state = {
    pages = stamp, styles = stream.styles, error = text or yue.null, failures = yue.array(core.development_failures()),
  }
  stream.news, stream.styles = false, false
  return 'event: state\ndata: ' .. core.json_encode(state, '') .. '\n\n'
end

--- Sends states until the program ends or the page is gone.
local function send_states(connection, stream)
  if not core.http_send(connection, 'retry: 300\n' .. state_of(stream)) then return end
  local last = core.clock()
  while not core.shutting_down() do
    if not stream.news then
      stream.wait = core.prepare()
      local woken = core.park(stream.wait, 'changed pages', TURN)
      stream.wait = nil
      if woken == nil then return end
    end
    local now = core.clock()
    local has_news = stream.news or has_failures(stream)
    if has_news or now - last > BEAT then
      last = now
      if not core.http_send(connection, has_news and state_of(stream) or ':\n\n') then return end
    end
  end
end

local function serve_stream(req)
  local connection, stream = req.link.connection, { news = false, styles = false }
  internal.http_begin(req, 200, { ['content-type'] = 'text/event-stream', ['cache-control'] = 'no-store' })
  streams[stream] = true
  -- It lasts as long as the page, and must not keep an old version of the code.
  internal.mark_helper(true)
  pcall(send_states, connection, stream)
  internal.mark_helper(false)
  streams[stream] = nil
  core.http_end(connection, true)
end

-- -- Failures --------------------------------------------------------------------------------------------------------

local counted, collections = 0, 0

--- A fiber that fails is reported when the collector finds that nobody can read its result any more. In a program with
--- little to do that may take minutes, which is too late for somebody who writes it.
local function find_unseen_failures()
  local noted, is_left = internal.count_unseen()
  if noted ~= counted then counted, collections = noted, COLLECTIONS end
  if not is_left or collections == 0 then return end
  collections = collections - 1
  collectgarbage()
end

core.spawn_daemon(function()
  internal.mark_helper(true)
  while not core.shutting_down() do
    core.sleep(COUNTS)
    find_unseen_failures()
    -- The list is that of all loops.
    if core.role == 'main' and core.index == 1 then core.development_log_repeats() end
  end
end)

-- -- Files -----------------------------------------------------------------------------------------------------------

local function is_hidden(name)
  return find(name, '^%.') or find(name, '~$') or name == 'node_modules'
end

local function on_change(name)
  if name and is_hidden(name) then return end
  names[#names + 1] = name or ''
  changes = changes + 1
  if wait then core.wake(wait) end
end

--- Watches a folder and those in it; adds to the number of its files, and finds the newest time of one.
local function look_into(folder, sum, depth)
  -- The watch of the folder above finds one that is created again.
  internal.watch_folder(folder, on_change, depth == 1)
  local ok, list, kinds = pcall(yue.fs.list, folder, { kinds = true })
  if not ok then return end
  for _, name in ipairs(list) do
    if sum.count > FILES_MAX then return end
    local path = folder .. '/' .. name
    if is_hidden(name) then
      -- It is not served, or not edited by hand.
    elseif kinds[name] == 'directory' then
      if depth < DEPTH_MAX then look_into(path, sum, depth + 1) end
    else
      local found, facts = pcall(yue.fs.stat, path)
      if found and facts then
        sum.count = sum.count + 1
        -- A file that is renamed to this name may be older than the one before.
        sum.newest = math.max(sum.newest, facts.mtime, facts.ctime)
      end
    end
  end
end

local function look()
  local sum = { count = 0, newest = 0 }
  for _, folder in ipairs(roots) do look_into(folder, sum, 1) end
  return format('%.0f.%d', sum.newest * 1000, sum.count)
end

local function present_stamp()
  if not stamp then stamp = look() end
  return stamp
end

local function are_styles(list)
  for _, name in ipairs(list) do
    if not find(lower(name), '%.css$') then return false end
  end
  return true
end

--- Waits until files have changed, and have not changed any more for a moment.
local function wait_for_changes(seen)
  if seen == changes then
    wait = core.prepare()
    local woken, stopped = core.park(wait, 'changed pages')
    wait = nil
    if woken == nil then error(stopped, 0) end
  end
  local latest = core.clock() + QUIET_MAX
  repeat
    seen = changes
    core.sleep(QUIET)
  until seen == changes or core.clock() > latest
  return changes
end

local function run_watcher()
  internal.mark_helper(true)
  local seen = changes
  while not core.shutting_down() do
    seen = wait_for_changes(seen)
    local changed = names
    names = {}
    local now = look()
    if now ~= stamp then
      stamp = now
      wake_streams(are_styles(changed))
    end
  end
end

--- Called for each folder whose files are served.
function development.watch(folder)
  for _, other in ipairs(roots) do
    if other == folder then return end
  end
  roots[#roots + 1] = folder
  -- A change before the first page is asked for does not concern it.
  stamp = nil
  if #roots == 1 then core.spawn_daemon(run_watcher) end
end

-- -- Requests --------------------------------------------------------------------------------------------------------

--- Whether the request is for a page, and not for a part of one. Clients that do not say so get the script.
local function is_for_page(req)
  local wanted = req:header 'sec-fetch-dest'
  return not wanted or wanted == 'document' or wanted == 'iframe'
end

local function tag()
  return format(TAG, present_stamp())
end

--- Answers the requests of the script in the pages; returns whether this is one.
function development.handle(req)
  local path = req.path
  if path ~= PLACE and path ~= PLACE_OF_STREAM then return false end
  if req:header 'sec-fetch-site' == 'cross-site' then
    internal.http_answer(req, 403, 'this is for pages of this server\n')
  elseif path == PLACE then
    local headers = { ['content-type'] = 'text/javascript; charset=utf-8', ['cache-control'] = 'no-store' }
    internal.http_answer(req, 200, core.development_script, headers)
  elseif req.method == 'POST' then
    -- Somebody has closed the errors of a page.
    core.development_hide()
    internal.http_answer(req, 204)
  else
    present_stamp()
    serve_stream(req)
  end
  return true
end

local function type_in(headers)
  if type(headers) ~= 'table' then return nil end
  for name, value in pairs(headers) do
    if type(name) == 'string' and lower(name) == 'content-type' then return value end
  end
end

--- The values of a handler; a page gets the script.
function development.with_script(req, first, second, third)
  local status, body, headers = first, second, third
  if type(first) ~= 'number' then status, body, headers = nil, first, second end
  local kind = type(body) == 'string' and type_in(headers)
  if type(kind) ~= 'string' or not match(lower(kind), '^%s*text/html') or not is_for_page(req) then
    return first, second, third
  end
  return status or 200, body .. tag(), headers
end

--- Sends a file. The browser asks for it each time, so that a change is seen.
function development.send_file(req, file, size, kind)
  local connection = req.link.connection
  local more = find(kind, '^text/html') and is_for_page(req) and tag() or ''
  local headers = {
    ['content-type'] = kind, ['content-length'] = tostring(size + #more), ['cache-control'] = 'no-store',
    ['x-content-type-options'] = 'nosniff',
  }
  if req.method == 'HEAD' then return 200, nil, headers end
  if size + #more == 0 then return 200, '', headers end
  internal.http_begin(req, 200, headers)
  local ok = size == 0 or core.http_send_file(connection, file, 0, size)
  if ok and more ~= '' then ok = core.http_send(connection, more) end
  core.http_end(connection, ok)
end
