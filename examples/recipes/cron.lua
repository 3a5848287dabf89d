-- Runs functions at times of the calendar, as cron does.
--
--   local cron = require 'cron'
--   cron.start('*/15 9-17 * * mon-fri', function() print 'every quarter of an hour, in office hours' end)
--   local job = cron.start('30 3 1 * *', backup)      -- on the first of each month, at 3:30
--   job:stop()
--   print(os.date('%c', cron.next('0 0 29 2 *')))     -- the next leap day
--
-- The fields are minute, hour, day of the month, month, day of the week (0 and 7 are Sunday), in local time. A field is
-- `*`, a number, a range `1-5`, a list `1,15`, or one of these with a step `/2`; months and days also have names. If
-- both days are given, one of them is enough (crontab(5)).
local yue = require 'yue'

local cron = {}

local MONTHS = { 'jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec' }
local DAYS = { [0] = 'sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat' }

local function numbers_of(names)
  local numbers = {}
  for number, name in pairs(names) do numbers[name] = number end
  return numbers
end

local FIELDS = {
  { name = 'minute', from = 0, to = 59 }, { name = 'hour', from = 0, to = 23 },
  { name = 'day of the month', from = 1, to = 31 }, { name = 'month', from = 1, to = 12, names = numbers_of(MONTHS) },
  { name = 'day of the week', from = 0, to = 7, names = numbers_of(DAYS) },
}

-- The clock may be set, so a long wait is divided.
local WAIT_MAX = 60

local function fail(expression, text, ...)
  error(yue.errors.ArgumentError.new(("cron: '%s': %s"):format(expression, text:format(...))), 0)
end

local function parse_field(expression, field, text)
  local set = { any = text:sub(1, 1) == '*' }
  local function number(word)
    local found = field.names and field.names[word:lower()] or (word:find '^%d%d?$' and tonumber(word))
    if not found or found < field.from or found > field.to then
      fail(expression, "'%s' is no %s: it is a number from %d to %d", word, field.name, field.from, field.to)
    end
    return found
  end
  for part in (text .. ','):gmatch '([^,]*),' do
    local range, step = part:match '^(.-)/(%d+)$'
    range, step = range or part, tonumber(step or 1)
    local from, to = range:match '^(%w+)-(%w+)$'
    if range == '*' then
      from, to = field.from, field.to
    elseif from then
      from, to = number(from), number(to)
    else
      from = number(range)
      -- `5/10` is every tenth from 5 on.
      to = part == range and from or field.to
    end
    if step < 1 or from > to then fail(expression, "'%s' names no %s", part, field.name) end
    for i = from, to, step do set[i] = true end
  end
  return set
end

--- Parses an expression; raises an ArgumentError that says what is wrong.
function cron.parse(expression)
  if type(expression) ~= 'string' then fail(tostring(expression), 'it is a text of five fields') end
  local fields = {}
  for text in expression:gmatch '%S+' do fields[#fields + 1] = text end
  if #fields ~= #FIELDS then fail(expression, 'it has five fields: minute hour day month weekday') end
  local sets = {}
  for i, field in ipairs(FIELDS) do sets[i] = parse_field(expression, field, fields[i]) end
  if sets[5][7] then sets[5][0] = true end
  return sets
end

local function is_day(sets, date)
  local by_month, by_week = sets[3][date.day], sets[5][date.wday - 1]
  if sets[3].any then return by_week end
  if sets[5].any then return by_month end
  return by_month or by_week
end

--- The first time after `after` (seconds since 1970, by default now) that the expression means; nil if there is none,
--- as for the 30th of February.
function cron.next(expression, after)
  local sets = type(expression) == 'table' and expression or cron.parse(expression)
  local at = math.floor((after or yue.time()) / 60) * 60 + 60
  -- Leap days are at most eight years apart.
  local last = at + 8.1 * 366 * 86400
  while at < last do
    local date = os.date('*t', at)
    local before = at
    if not sets[4][date.month] then
      at = os.time { year = date.year, month = date.month + 1, day = 1, hour = 0 }
    elseif not is_day(sets, date) then
      at = os.time { year = date.year, month = date.month, day = date.day + 1, hour = 0 }
    elseif not sets[2][date.hour] then
      at = at + 3600 - date.min * 60
    elseif not sets[1][date.min] then
      at = at + 60
    else
      return at
    end
    -- Where a day does not begin at midnight, because the clocks are put forward then.
    if at <= before then at = before + 3600 end
  end
end

local Job = {}
Job.__index = Job

--- Stops the job; a run that has begun continues.
function Job:stop()
  self.stopped = true
  if self.fiber then self.fiber:cancel() end
end

local function run(job)
  job.running = true
  local ok, e = pcall(job.fn)
  job.running = false
  if not ok then yue.log.error(("cron job '%s' failed: %s"):format(job.expression, tostring(e))) end
end

--- Calls `fn()` in a fiber at the times of the expression, until `job:stop()`. A run that takes longer than to the next
--- time is not joined by a second one: that time is left out.
function cron.start(expression, fn)
  local sets = cron.parse(expression)
  if not cron.next(sets) then fail(expression, 'there is no such day') end
  local job = setmetatable({ expression = expression, fn = fn, running = false, stopped = false }, Job)
  job.fiber = yue.spawn(function()
    local at = cron.next(sets)
    while not job.stopped do
      local left = at - yue.time()
      if left > 0 then
        yue.sleep(math.min(left, WAIT_MAX))
      else
        if job.running then
          yue.log.warn(("cron job '%s' still runs: this time is left out"):format(expression))
        else
          yue.spawn(run, job)
        end
        at = cron.next(sets)
      end
    end
  end)
  return job
end

return cron
