-- The clocks and the random numbers of Lua's own library, for a host of a simulation: they are the simulation's. It
-- runs before the rest of the prelude, whose copies of the libraries are these.
local core, _, internal = ...
local floor, select, type, tonumber, error = math.floor, select, type, tonumber, error
local date, randomseed = os.date, math.randomseed
local sub = string.sub

-- Traces depend on the addresses of machine code, and on random numbers of their own.
jit.off()
jit.on = function() end

-- The addresses of all that is made from now on depend on the seed, and with them the orders in which `pairs` visits
-- keys that are tables or functions.
internal.padding = ('\0'):rep(16 * (core.random_seed() % 2048))

local began = core.clock()

--- Seconds since the VM was started: computing takes no time in a simulation, waiting does.
function os.clock()
  return core.clock() - began
end

-- The number in a field of a date, as LuaJIT reads it.
local function field(fields, name, default)
  local value = tonumber(fields[name])
  if value then return floor(value) end
  if default == nil then error(("field '%s' missing in date table"):format(name), 3) end
  return default
end

-- The days from 1970-01-01 to a day of the proleptic Gregorian calendar
-- (https://howardhinnant.github.io/date_algorithms.html#days_from_civil).
local function days_of(year, month, day)
  year = year + floor((month - 1) / 12)
  month = (month - 1) % 12 + 1
  if month <= 2 then year = year - 1 end
  local era = floor(year / 400)
  local year_of_era = year - era * 400
  local day_of_year = floor((153 * ((month + 9) % 12) + 2) / 5) + day - 1
  return era * 146097 + year_of_era * 365 + floor(year_of_era / 4) - floor(year_of_era / 100) + day_of_year - 719468
end

--- The simulated time zone is UTC.
function os.time(fields)
  if fields == nil then return floor(core.now_us() / 1e6) end
  if type(fields) ~= 'table' then
    error(("bad argument #1 to 'time' (table expected, got %s)"):format(type(fields)), 2)
  end
  local days = days_of(field(fields, 'year'), field(fields, 'month'), field(fields, 'day'))
  return days * 86400 + field(fields, 'hour', 12) * 3600 + field(fields, 'min', 0) * 60 + field(fields, 'sec', 0)
end

function os.date(format, time)
  if format == nil then format = '%c' end
  if type(format) == 'string' and sub(format, 1, 1) ~= '!' then format = '!' .. format end
  if time == nil then time = os.time() end
  return date(format, time)
end

-- Otherwise each VM of each run would have the same numbers.
randomseed(core.random_seed())

function math.randomseed(...)
  if select('#', ...) > 0 then return randomseed(...) end
  return randomseed(core.random_seed())
end
