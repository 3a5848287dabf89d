-- Metrics of the program: counters, gauges and histograms of the process, which all loops and threads share.
--
-- A metric object keeps the address of each series' cell, by its label values, and changes the cell by a C function, so
-- that LuaJIT compiles the whole call.
local core, yue, internal = ...
local type, pairs, ipairs, tostring, setmetatable, error = type, pairs, ipairs, tostring, setmetatable, error
local find, concat, sort, huge = string.find, table.concat, table.sort, math.huge
local ffi = require 'ffi'

local function pointer(kind, address)
  return ffi.cast(kind, ffi.cast('uintptr_t', address))
end

local add_address, set_address, observe_address = core.metric_functions()
local cell_add = pointer('void (*)(double *, double)', add_address)
local cell_set = pointer('void (*)(double *, double)', set_address)
local cells_observe = pointer('void (*)(double *, double *, double, double)', observe_address)

--- Bounds of the buckets in seconds, for durations: those of Prometheus' own clients.
local BUCKETS = { 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10 }
local BUCKETS_MAX = 200
local LABELS_MAX = 16
local SERIES_MAX = 1000
local SERIES_LIMIT = 1000000

yue.metrics = {}

--- Returns all counters of the process, the program's metrics too, in Prometheus' text format.
function yue.metrics.text() return core.metrics_text() end

-- -- Series ----------------------------------------------------------------------------------------------------------

local function label_error(metric, text)
  internal.argument_error(('the metric %s %s'):format(metric.name, text))
end

--- The cells of the series with these labels, which the metric sees for the first time; kept for the next time.
local function find_cells(metric, labels)
  local names = metric.labels
  if type(labels) ~= 'table' then
    label_error(metric, ('needs its labels, such as { %s = … }, not %s'):format(
      names[1], internal.describe_value(labels)))
  end
  for name in pairs(labels) do
    if not metric.known[name] then label_error(metric, 'has no label ' .. internal.to_text(name)) end
  end
  local values = {}
  for i, name in ipairs(names) do
    local value = labels[name]
    local kind = type(value)
    if kind ~= 'string' and kind ~= 'number' and kind ~= 'boolean' then
      label_error(metric, ('needs a text for its label %s, not %s'):format(name, internal.describe_value(value)))
    end
    values[i] = tostring(value):gsub('%z', ' ')
  end
  values[#values + 1] = ''
  local address, own = core.metric_cells(metric.name, concat(values, '\0'))
  local cells = pointer('double *', address)
  -- The number of series is limited; that of the label values which share the last one is not. NaN cannot be a key.
  for _, name in ipairs(names) do own = own and labels[name] == labels[name] end
  if own then
    local level = metric.cache
    for i = 1, #names - 1 do
      local value = labels[names[i]]
      local next_level = level[value]
      if not next_level then
        next_level = {}
        level[value] = next_level
      end
      level = next_level
    end
    level[labels[names[#names]]] = cells
  end
  return cells
end

local function cells_of(metric, labels)
  local names = metric.labels
  local count = #names
  if count == 0 then
    if labels ~= nil then label_error(metric, 'has no labels') end
    return metric.cells
  end
  if type(labels) ~= 'table' then return find_cells(metric, labels) end
  local level = metric.cache
  for i = 1, count do
    local value = labels[names[i]]
    if value == nil then return find_cells(metric, labels) end
    level = level[value]
    if level == nil then return find_cells(metric, labels) end
  end
  return level
end

-- -- Kinds -----------------------------------------------------------------------------------------------------------

local function class(kind)
  local methods = {}
  methods.__index = methods
  methods.__tostring = function(self) return kind .. ' ' .. self.name end
  core.name_class(methods)
  return methods
end

local Counter, Gauge, Histogram = class 'counter', class 'gauge', class 'histogram'
local CLASSES = { counter = Counter, gauge = Gauge, histogram = Histogram }

local function number_error(metric, what, value)
  internal.argument_error(('the %s takes %s, not %s'):format(tostring(metric), what, internal.describe_value(value)))
end

-- The arguments `[n] [, labels]`.
local function amount(n, labels)
  if n == nil then return 1, labels end
  if type(n) == 'table' and labels == nil then return 1, n end
  return n, labels
end

--- Adds `n` (1), which is not below 0.
function Counter:add(n, labels)
  n, labels = amount(n, labels)
  if type(n) ~= 'number' or not (n >= 0 and n < huge) then number_error(self, 'a number of at least 0', n) end
  cell_add(cells_of(self, labels), n)
end

--- Adds 1.
function Counter:inc(labels)
  cell_add(cells_of(self, labels), 1)
end

--- Makes `value` its value.
function Gauge:set(value, labels)
  if type(value) ~= 'number' then number_error(self, 'a number', value) end
  cell_set(cells_of(self, labels), value)
end

--- Adds `n` (1), which may be below 0.
function Gauge:add(n, labels)
  n, labels = amount(n, labels)
  if type(n) ~= 'number' then number_error(self, 'a number', n) end
  cell_add(cells_of(self, labels), n)
end

--- Counts a value in its bucket.
function Histogram:observe(value, labels)
  if type(value) ~= 'number' or value ~= value then number_error(self, 'a number', value) end
  cells_observe(cells_of(self, labels), self.bounds, self.bounds_count, value)
end

local clock = core.clock

local function observe_time(self, begun, labels, ok, ...)
  self:observe(clock() - begun, labels)
  if not ok then error((...), 0) end
  return ...
end

--- Runs `fn(...)` and observes the seconds that it took, waits included, also if it raises. Returns its results.
--- `time(labels, fn, ...)` gives the labels.
function Histogram:time(first, ...)
  if type(first) == 'table' and not internal.is_callable(first) then
    local fn = (...)
    if not internal.is_callable(fn) then
      internal.argument_error('h:time takes labels, if the metric has any, a function and its arguments')
    end
    -- Before it runs: wrong labels must not lose its results.
    cells_of(self, first)
    return observe_time(self, clock(), first, xpcall(fn, internal.wrap, select(2, ...)))
  end
  if not internal.is_callable(first) then
    internal.argument_error('h:time takes a function and its arguments, not ' .. internal.describe_value(first))
  end
  cells_of(self, nil)
  return observe_time(self, clock(), nil, xpcall(first, internal.wrap, ...))
end

-- -- Declarations ----------------------------------------------------------------------------------------------------

local OPTIONS = {
  counter = { labels = true, series_max = true },
  gauge = { labels = true, series_max = true },
  histogram = { labels = true, series_max = true, buckets = true },
}

local function check_name(what, name)
  if type(name) ~= 'string' or not find(name, '^[%a_:][%w_:]*$') or #name > 200 then
    local given = type(name) == 'string' and ('%q'):format(name) or internal.describe_value(name)
    internal.argument_error(what
      .. ': the name of a metric has letters, digits, _ and :, does not begin with a digit, and is not ' .. given)
  end
  if find(name, '^yue_') or find(name, '^process_') then
    internal.argument_error(('%s: names that begin with yue_ or process_ are taken: %s'):format(what, name))
  end
end

local function check_labels(what, kind, labels)
  if type(labels) ~= 'table' then
    internal.argument_error(('%s: labels are a list of names, not %s'):format(what, internal.describe_value(labels)))
  end
  local known, list = {}, {}
  for i = 1, #labels do
    local name = labels[i]
    local ok = type(name) == 'string' and #name <= 100 and find(name, '^[%a_][%w_]*$') and not find(name, '^__')
    if not ok or (kind == 'histogram' and name == 'le') then
      internal.argument_error(('%s: %s cannot be a label'):format(what, internal.to_text(name)))
    end
    if known[name] then internal.argument_error(('%s: the label %s is there twice'):format(what, name)) end
    known[name], list[i] = true, name
  end
  if #list > LABELS_MAX then
    internal.argument_error(('%s: a metric has up to %d labels'):format(what, LABELS_MAX))
  end
  return list, known
end

local function check_buckets(what, buckets)
  if type(buckets) ~= 'table' or #buckets == 0 or #buckets > BUCKETS_MAX then
    internal.argument_error(('%s: buckets are a list of 1 to %d upper bounds'):format(what, BUCKETS_MAX))
  end
  local list = {}
  for i = 1, #buckets do
    local bound = buckets[i]
    if type(bound) ~= 'number' or bound ~= bound or (i > 1 and bound <= list[i - 1]) then
      internal.argument_error(('%s: the bounds of buckets are ascending numbers'):format(what))
    end
    -- The last bucket has no bound anyway.
    if bound ~= huge then list[i] = bound end
  end
  return list
end

local function check_options(what, kind, options)
  if options == nil then return {} end
  if type(options) ~= 'table' then
    internal.argument_error(('%s: options are a table, or a list of labels, not %s'):format(
      what, internal.describe_value(options)))
  end
  if #options > 0 then return { labels = options } end
  for name in pairs(options) do
    if not OPTIONS[kind][name] then
      local names = {}
      for each in pairs(OPTIONS[kind]) do names[#names + 1] = each end
      sort(names)
      internal.argument_error(('%s has no option %s; it has: %s'):format(
        what, internal.to_text(name), concat(names, ', ')))
    end
  end
  local most = options.series_max
  if most ~= nil and (type(most) ~= 'number' or not (most >= 1 and most <= SERIES_LIMIT)) then
    internal.argument_error(('%s: series_max is a number from 1 to %d'):format(what, SERIES_LIMIT))
  end
  return options
end

local metrics = {} -- by name

local function declare(kind, name, help, options)
  local what = 'yue.metrics.' .. kind
  check_name(what, name)
  if type(help) ~= 'string' then
    internal.argument_error(('%s takes a name and a help text, not %s'):format(what, internal.describe_value(help)))
  end
  options = check_options(what, kind, options)
  local labels, known = check_labels(what, kind, options.labels or {})
  local bounds, count = '', 0
  if kind == 'histogram' then
    local buckets = check_buckets(what, options.buckets or BUCKETS)
    count = #buckets
    bounds = ffi.string(ffi.new('double[?]', count, buckets), count * ffi.sizeof 'double')
  end
  local list = #labels > 0 and concat(labels, '\0') .. '\0' or ''
  -- It raises if the metric exists with another kind, other labels or buckets.
  local address = core.metric_declare(kind, name, help, list, bounds, options.series_max or SERIES_MAX)
  local metric = metrics[name]
  if not metric then
    metric = setmetatable({ name = name, labels = labels, known = known, cache = {} }, CLASSES[kind])
    if kind == 'histogram' then metric.bounds, metric.bounds_count = pointer('double *', address), count end
    if #labels == 0 then metric.cells = pointer('double *', (core.metric_cells(name, ''))) end
    metrics[name] = metric
  end
  return metric
end

--- Returns the counter of that name: a number that only grows.
function yue.metrics.counter(name, help, options) return declare('counter', name, help, options) end

--- Returns the gauge of that name: a number that goes up and down.
function yue.metrics.gauge(name, help, options) return declare('gauge', name, help, options) end

--- Returns the histogram of that name: how many of the observed values lie below each bound.
function yue.metrics.histogram(name, help, options) return declare('histogram', name, help, options) end
