---@meta yue.metrics
-- LuaCATS stubs of `yue`, continued: metrics. They are never run. docs/src/lua-api.md explains.

---@class yue
local yue = {}

---A number of the process that only grows.
---@class yue.Counter
---@field name string
local Counter = {}

---Adds `n`, a number of at least 0; 1 by default.
---@param n number?
---@param labels table<string, any>?
function Counter:add(n, labels) end

---Adds 1.
---@param labels table<string, any>?
function Counter:inc(labels) end

---A number of the process that goes up and down.
---@class yue.Gauge
---@field name string
local Gauge = {}

---@param value number
---@param labels table<string, any>?
function Gauge:set(value, labels) end

---Adds `n`, which may be below 0; 1 by default.
---@param n number?
---@param labels table<string, any>?
function Gauge:add(n, labels) end

---Counts of observed values, by size.
---@class yue.Histogram
---@field name string
local Histogram = {}

---Counts a value.
---@param value number
---@param labels table<string, any>?
function Histogram:observe(value, labels) end

---Runs `fn(...)` and observes the seconds that it took, also if it raises. Returns its results. If the metric has
---labels, they come before `fn`.
---@param fn function|table<string, any>
---@param ... any
---@return any ...
function Histogram:time(fn, ...) end

---@class yue.MetricOptions
---@field labels? string[] The names of its labels.
---@field series_max? integer Sets of label values that are counted apart. 1000 by default.
---@field buckets? number[] Of a histogram: the upper bounds of its buckets, ascending.

---@class yue.Metrics
yue.metrics = {}

---Returns all counters of the process, the program's own too, in Prometheus' text format.
---@return string
function yue.metrics.text() end

---Returns the counter of that name, which all loops and threads of the process share.
---@param name string
---@param help string
---@param options (yue.MetricOptions|string[])? A list of strings: the labels.
---@return yue.Counter
function yue.metrics.counter(name, help, options) end

---Returns the gauge of that name, which all loops and threads of the process share.
---@param name string
---@param help string
---@param options (yue.MetricOptions|string[])? A list of strings: the labels.
---@return yue.Gauge
function yue.metrics.gauge(name, help, options) end

---Returns the histogram of that name, which all loops and threads of the process share.
---@param name string
---@param help string
---@param options (yue.MetricOptions|string[])? A list of strings: the labels.
---@return yue.Histogram
function yue.metrics.histogram(name, help, options) end

return yue
