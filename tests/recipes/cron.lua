-- The recipe `cron`: expressions, and the jobs.
local check = require 'check'
local cron = dofile 'examples/recipes/cron.lua'

local function at(text)
  local year, month, day, hour, min = text:match '(%d+)-(%d+)-(%d+) (%d+):(%d+)'
  return os.time { year = year, month = month, day = day, hour = hour, min = min }
end
local function after(expression, text)
  local found = cron.next(expression, at(text))
  return found and os.date('%Y-%m-%d %H:%M', found)
end

-- 2024-05-01 was a Wednesday.
check.equal(after('* * * * *', '2024-05-01 10:00'), '2024-05-01 10:01')
check.equal(after('*/15 * * * *', '2024-05-01 10:00'), '2024-05-01 10:15')
check.equal(after('*/15 * * * *', '2024-05-01 10:50'), '2024-05-01 11:00')
check.equal(after('5/20 * * * *', '2024-05-01 10:30'), '2024-05-01 10:45')
check.equal(after('0 9 * * *', '2024-05-01 09:00'), '2024-05-02 09:00')
check.equal(after('30 3 1 * *', '2024-05-01 10:00'), '2024-06-01 03:30')
check.equal(after('0 0 1 jan *', '2024-05-01 10:00'), '2025-01-01 00:00')
check.equal(after('0 12 * * mon-fri', '2024-05-03 13:00'), '2024-05-06 12:00')
check.equal(after('0 12 * * 7', '2024-05-01 13:00'), '2024-05-05 12:00')
check.equal(after('0 12 * * sun,WED', '2024-05-01 13:00'), '2024-05-05 12:00')
check.equal(after('10-20/5,50 8 * * *', '2024-05-01 08:15'), '2024-05-01 08:20')
check.equal(after('10-20/5,50 8 * * *', '2024-05-01 08:20'), '2024-05-01 08:50')
check.equal(after('0 0 29 2 *', '2024-05-01 10:00'), '2028-02-29 00:00')
check.equal(after('0 0 29 2 *', '2096-05-01 10:00'), '2104-02-29 00:00')
check.equal(after('59 23 31 12 *', '2024-12-31 23:58'), '2024-12-31 23:59')
-- Both days: one is enough.
check.equal(after('0 0 13 * 5', '2024-05-01 10:00'), '2024-05-03 00:00')
check.equal(after('0 0 13 * 5', '2024-05-10 10:00'), '2024-05-13 00:00')
check.equal(after('0 0 30 2 *', '2024-05-01 10:00'), nil)
check.equal(cron.next('* * * * *', 59.9), 60)
check.equal(cron.next('* * * * *', 60), 120)
check.that(cron.next '* * * * *' - yue.time() <= 60)

for expression, part in pairs {
  ['* * * *'] = 'it has five fields', ['* * * * * *'] = 'it has five fields', ['60 * * * *'] = "'60' is no minute",
  ['* 24 * * *'] = "'24' is no hour", ['* * 0 * *'] = "'0' is no day of the month",
  ['* * * foo *'] = "'foo' is no month: it is a number from 1 to 12", ['* * * * 8'] = "'8' is no day of the week",
  ['5-1 * * * *'] = 'names no minute', ['*/0 * * * *'] = 'names no minute', ['1,,2 * * * *'] = "'' is no minute",
  ['-1 * * * *'] = "'-1' is no minute", ['1.5 * * * *'] = 'is no minute', [''] = 'it has five fields',
} do
  check.raises('ArgumentError', part, cron.parse, expression)
end
check.raises('ArgumentError', 'there is no such day', cron.start, '0 0 31 2 *', print)
check.raises('ArgumentError', 'five fields', cron.start, nil, print)

-- A job, by a clock that a test can put forward: the time is that of `yue.time`.
local real, offset = yue.time, 0
yue.time = function() return real() + offset end
local runs, block = 0, yue.event()
local function jump()
  -- To just before the next minute.
  local now = yue.time()
  offset = offset + (math.floor(now / 60) + 1) * 60 - now - 0.02
end
jump()
local job = cron.start('* * * * *', function()
  runs = runs + 1
  if runs == 2 then block:wait() end
end)
check.eventually(function() return runs == 1 end)
job:stop()
check.equal(job.fiber:sync(), false)
jump()
job = cron.start('* * * * *', function()
  runs = runs + 1
  block:wait()
  error 'it failed'
end)
check.eventually(function() return runs == 2 end)
check.equal(job.running, true)
block:set()
check.eventually(function() return not job.running end)
job:stop()
yue.time = real
check.done()
