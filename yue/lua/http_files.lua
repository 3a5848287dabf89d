-- Files for the HTTP server: `yue.http.files`.
--
-- The native side opens a file below its folder without following links, and sends it piece by piece. Here are the
-- rules of HTTP: conditions (RFC 9110, section 13), one range (section 14), types.
local core, yue, internal = ...
local type, pairs, tonumber, xpcall, error = type, pairs, tonumber, xpcall, error
local find, sub, match, gmatch, lower, format = string.find, string.sub, string.match, string.gmatch, string.lower,
  string.format
local describe_value = internal.describe_value
local http = yue.http
local development = internal.development

local TYPES = {
  avif = 'image/avif', bin = 'application/octet-stream', bmp = 'image/bmp', css = 'text/css; charset=utf-8',
  csv = 'text/csv; charset=utf-8', gif = 'image/gif', gz = 'application/gzip', htm = 'text/html; charset=utf-8',
  html = 'text/html; charset=utf-8', ico = 'image/x-icon', jpeg = 'image/jpeg', jpg = 'image/jpeg',
  js = 'text/javascript; charset=utf-8', json = 'application/json', map = 'application/json',
  md = 'text/markdown; charset=utf-8', mjs = 'text/javascript; charset=utf-8', mp3 = 'audio/mpeg',
  mp4 = 'video/mp4', ogg = 'audio/ogg', otf = 'font/otf', pdf = 'application/pdf', png = 'image/png',
  svg = 'image/svg+xml', tar = 'application/x-tar', ttf = 'font/ttf', txt = 'text/plain; charset=utf-8',
  wasm = 'application/wasm', wav = 'audio/wav', webm = 'video/webm', webmanifest = 'application/manifest+json',
  webp = 'image/webp', woff = 'font/woff', woff2 = 'font/woff2', xml = 'application/xml', zip = 'application/zip',
}

local OPTIONS = { index = true, dotfiles = true, max_age = true, types = true }

-- -- Dates -----------------------------------------------------------------------------------------------------------

local MONTHS = { Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6, Jul = 7, Aug = 8, Sep = 9, Oct = 10, Nov = 11,
  Dec = 12 }
local MONTH_NAMES, DAY_NAMES = {}, { 'Thu', 'Fri', 'Sat', 'Sun', 'Mon', 'Tue', 'Wed' }
for name, number in pairs(MONTHS) do MONTH_NAMES[number] = name end

--- The days from 1970 to a date, and back (http://howardhinnant.github.io/date_algorithms.html).
local function days_of(year, month, day)
  local y = month <= 2 and year - 1 or year
  local era = math.floor(y / 400)
  local of_era = y - era * 400
  local of_year = math.floor((153 * (month + (month > 2 and -3 or 9)) + 2) / 5) + day - 1
  return era * 146097 + of_era * 365 + math.floor(of_era / 4) - math.floor(of_era / 100) + of_year - 719468
end

--- A time in seconds since 1970 as HTTP writes it. Without `os.date`, which follows the program's locale.
local function date_text(time)
  local days, second = math.floor(time / 86400), time % 86400
  local z = days + 719468
  local era = math.floor(z / 146097)
  local of_era = z - era * 146097
  local year = math.floor(
    (of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local part = math.floor((5 * of_year + 2) / 153)
  local day, month = of_year - math.floor((153 * part + 2) / 5) + 1, part < 10 and part + 3 or part - 9
  year = year + era * 400 + (month <= 2 and 1 or 0)
  return format('%s, %02d %s %04d %02d:%02d:%02d GMT', DAY_NAMES[days % 7 + 1], day, MONTH_NAMES[month], year,
    math.floor(second / 3600), math.floor(second / 60) % 60, second % 60)
end

--- The time of a date in a header; nil for one in another form.
local function read_date(text)
  local day, month, year, hour, minute, second = match(text or '',
    '^%a%a%a, (%d%d) (%a%a%a) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT$')
  if not day or not MONTHS[month] then return nil end
  return days_of(tonumber(year), MONTHS[month], tonumber(day)) * 86400 + tonumber(hour) * 3600
    + tonumber(minute) * 60 + tonumber(second)
end

-- -- Conditions and ranges -------------------------------------------------------------------------------------------

--- Whether a list of tags has this one, or is `*`. A weak tag means the same file.
local function has_tag(list, tag)
  if match(list, '^%s*%*%s*$') then return true end
  for each in gmatch(list, '"[^"]*"') do
    if each == tag then return true end
  end
  return false
end

--- Whether the client has this version of the file.
local function is_known(req, tag, time)
  local tags = req:header 'if-none-match'
  if tags then return has_tag(tags, tag) end
  local since = read_date(req:header 'if-modified-since')
  return since ~= nil and time <= since
end

--- Whether a condition of the client forbids the answer: it wants a version that is there no more.
local function is_refused(req, tag, time)
  local tags = req:header 'if-match'
  -- A weak tag proves nothing here.
  if tags then return not has_tag((tags:gsub('W/"[^"]*"', '')), tag) end
  local since = read_date(req:header 'if-unmodified-since')
  return since ~= nil and time > since
end

--- The first and the last byte of the range that the client wants, if it wants one; false if there is none such.
local function read_range(req, size, tag, time)
  local range = req.method == 'GET' and req:header 'range'
  if not range then return nil end
  local condition = req:header 'if-range'
  if condition and condition ~= tag and read_date(condition) ~= time then return nil end
  local first, last = match(lower(range), '^bytes%s*=%s*(%d*)%s*%-%s*(%d*)%s*$')
  -- Several ranges, or another unit: the whole file is a correct answer.
  if not first or (first == '' and last == '') then return nil end
  first, last = tonumber(first), tonumber(last)
  if not first then
    -- The last bytes.
    if last == 0 or size == 0 then return false end
    return math.max(0, size - last), size - 1
  end
  if last and last < first then return nil end
  if first >= size then return false end
  return first, math.min(last or size - 1, size - 1)
end

-- -- Files -----------------------------------------------------------------------------------------------------------

--- The path below the folder; nil if it may not be served.
local function checked_path(path, dotfiles)
  if find(path, '%z') then return nil end
  local at_end = #path
  for start, segment, stop in gmatch(path, '()([^/]*)()') do
    -- LuaJIT's `gmatch` finds an empty match behind each segment, which is not one.
    local is_segment = start == 1 or sub(path, start - 1, start - 1) == '/'
    if is_segment then
      if segment == '' and stop <= at_end then return nil end
      if segment == '.' or segment == '..' then return nil end
      if not dotfiles and sub(segment, 1, 1) == '.' then return nil end
    end
  end
  return path
end

local NOT_FOUND = 'there is nothing at this path\n'

local function send_file(req, file, size, time, nanoseconds, kind, max_age)
  local tag = format('"%x-%x-%x"', size, time, nanoseconds)
  local headers = { etag = tag, ['last-modified'] = date_text(time), ['accept-ranges'] = 'bytes' }
  if max_age then headers['cache-control'] = format('max-age=%d', max_age) end
  if is_refused(req, tag, time) then return 412, nil, headers end
  if is_known(req, tag, time) then return 304, nil, headers end
  local first, last = read_range(req, size, tag, time)
  if first == false then
    headers['content-range'] = format('bytes */%d', size)
    return 416, nil, headers
  end
  local status = first and 206 or 200
  if first then headers['content-range'] = format('bytes %d-%d/%d', first, last, size) end
  first, last = first or 0, last or size - 1
  headers['content-type'], headers['content-length'] = kind, format('%d', last - first + 1)
  -- The type is known, so a browser must not guess another.
  headers['x-content-type-options'] = 'nosniff'
  if req.method == 'HEAD' then return status, nil, headers end
  if size == 0 then return status, '', headers end
  internal.http_begin(req, status, headers)
  core.http_end(req.link.connection, core.http_send_file(req.link.connection, file, first, last - first + 1))
end

local function close_after(file, ok, ...)
  core.http_file_close(file)
  if not ok then error((...), 0) end
  return ...
end

--- A handler that serves the files of a folder: `['GET /static/*'] = yue.http.files('public')`.
function http.files(folder, options)
  if type(folder) ~= 'string' or folder == '' then
    internal.argument_error('yue.http.files takes the path of a folder, not ' .. describe_value(folder))
  end
  options = internal.check_options('yue.http.files', options, OPTIONS)
  local index, max_age, types = options.index, options.max_age, options.types or {}
  if index == nil then index = 'index.html' end
  if index ~= false and (type(index) ~= 'string' or index == '' or find(index, '/', 1, true)) then
    internal.argument_error('yue.http.files: the option index is the name of a file, or false')
  end
  if max_age ~= nil and (type(max_age) ~= 'number' or not (max_age >= 0)) then
    internal.argument_error('yue.http.files: the option max_age is a number of seconds')
  end
  if options.dotfiles ~= nil and type(options.dotfiles) ~= 'boolean' then
    internal.argument_error('yue.http.files: the option dotfiles is true or false')
  end
  if type(types) ~= 'table' then
    internal.argument_error("yue.http.files: the option types is a table like { md = 'text/markdown' }")
  end
  for extension, kind in pairs(types) do
    if type(extension) ~= 'string' or type(kind) ~= 'string' or find(kind, '%c') then
      internal.argument_error("yue.http.files: the option types is a table like { md = 'text/markdown' }")
    end
  end
  if find(folder, '%z') then internal.argument_error('yue.http.files: the path of the folder has a zero byte') end
  local facts = yue.fs.stat(folder)
  if not facts or facts.kind ~= 'directory' then
    internal.argument_error(("yue.http.files: there is no folder '%s'; a relative path begins at the current folder")
      :format(folder))
  end
  if development then development.watch(folder) end
  return function(req)
    if req.method ~= 'GET' and req.method ~= 'HEAD' then
      return 405, 'this method is not allowed here\n', { allow = 'GET, HEAD' }
    end
    local path = checked_path(req.rest or '', options.dotfiles)
    if not path then return 404, NOT_FOUND end
    local file, size, time, nanoseconds = core.http_file(folder, path, index or '')
    if not file then return 404, NOT_FOUND end
    if file == true then
      -- Links in a folder's index are relative to the folder.
      local query = req.query_string and '?' .. req.query_string or ''
      return 301, nil, { location = req.path .. '/' .. query }
    end
    local name = (path == '' or sub(path, -1) == '/') and index or path
    local extension = lower(match(name, '%.([^./]+)$') or '')
    local kind = types[extension] or TYPES[extension] or 'application/octet-stream'
    if development then
      return close_after(file, xpcall(development.send_file, internal.wrap, req, file, size, kind))
    end
    return close_after(file, xpcall(send_file, internal.wrap, req, file, size, time, nanoseconds, kind, max_age))
  end
end
