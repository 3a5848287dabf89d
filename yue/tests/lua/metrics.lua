--! options: -c 2
--! stderr: the metric test_busy_total has more than 3 sets of label values; further ones count as _other
-- Metrics: kinds, labels, limits, several loops and threads, and the text, read by a strict parser.
local check = require 'check'
local metrics = yue.metrics

local LABEL = '^([%a_][%w_]*)="'

--- Parses the text format (version 0.0.4), and raises at everything that it does not allow. Returns the values by
--- name and labels, and the kinds by name.
local function parse(text)
  check.equal(text:sub(-1), '\n')
  local values, kinds, helps, done, family = {}, {}, {}, {}, nil
  local function belongs(name)
    if name == family then return kinds[family] ~= 'histogram' end
    return kinds[family] == 'histogram' and (name == family .. '_bucket' or name == family .. '_sum'
      or name == family .. '_count')
  end
  for line in text:gmatch '([^\n]*)\n' do
    local help = line:match '^# HELP ([%a_:][%w_:]*) .*$'
    local typed, kind = line:match '^# TYPE ([%a_:][%w_:]*) (%a+)$'
    if help then
      if helps[help] then error('two HELPs of ' .. help) end
      helps[help] = true
    elseif typed then
      if kinds[typed] or done[typed] then error('two TYPEs of ' .. typed) end
      if kind ~= 'counter' and kind ~= 'gauge' and kind ~= 'histogram' then error('the kind ' .. kind) end
      if family then done[family] = true end
      kinds[typed], family = kind, typed
    else
      local name, rest = line:match '^([%a_:][%w_:]*)(.*)$'
      if not name or not belongs(name) then error('a line of no family: ' .. line) end
      local labels = {}
      if rest:sub(1, 1) == '{' then
        rest = rest:sub(2)
        while rest:sub(1, 1) ~= '}' do
          local label = rest:match(LABEL) or error('no label: ' .. line)
          rest = rest:sub(#label + 3)
          local value = ''
          while rest:sub(1, 1) ~= '"' do
            local escaped = rest:match '^\\([\\"n])'
            if not escaped and not rest:find '^[^\\\n]' then error('a bad value: ' .. line) end
            value = value .. (escaped == 'n' and '\n' or escaped or rest:sub(1, 1))
            rest = rest:sub(escaped and 3 or 2)
          end
          if labels[label] then error('a label twice: ' .. line) end
          labels[label], labels[#labels + 1] = value, label .. '=' .. value
          rest = rest:sub(2)
          if rest:sub(1, 1) == ',' then rest = rest:sub(2) elseif rest:sub(1, 1) ~= '}' then error(line) end
        end
        rest = rest:sub(2)
      end
      local number = rest:match '^ (%S+)$' or error('no value: ' .. line)
      local value = number == 'NaN' and 0 / 0 or number == '+Inf' and 1 / 0 or number == '-Inf' and -1 / 0
        or tonumber(number) or error('no number: ' .. line)
      local key = name .. (#labels > 0 and '|' .. table.concat(labels, '|') or '')
      if values[key] then error('a series twice: ' .. line) end
      values[key] = value
    end
  end
  for name in pairs(kinds) do
    if not helps[name] then error('no HELP of ' .. name) end
  end
  return values, kinds
end

-- Both loops, and a thread, count in the same metrics.
local counter = metrics.counter('test_total', 'Counted by all.\nA second line, and a \\.')
local gauge = metrics.gauge('test_level', 'A level.', { 'room' })
local histogram = metrics.histogram('test_seconds', 'Durations.', { labels = { 'kind' }, buckets = { 0.5, 1, 2 } })
check.that(counter == metrics.counter('test_total', 'another help'))
for _ = 1, 1000 do
  counter:inc()
  gauge:add(1, { room = 'all' })
  histogram:observe(0.5, { kind = 'a' })
end
local ends = metrics.counter('test_ends_total', 'Loops that are done.')
ends:inc()
if yue.thread.current.index == 2 then
  check.that(true)
  return check.done()
end
check.eventually(function() return parse(metrics.text()).test_ends_total == 2 end)

local thread = yue.thread('counting', function()
  local counter = yue.metrics.counter('test_total', '')
  for _ = 1, 500 do counter:add(0.5) end
  yue.thread.current:exit()
end)
thread:join()

local values, kinds = parse(metrics.text())
check.equal(values.test_total, 2250)
check.equal(values['test_level|room=all'], 2000)
check.equal(values['test_seconds_bucket|kind=a|le=0.5'], 2000, 'a bound belongs to its bucket')
check.equal(values['test_seconds_count|kind=a'], 2000)
check.equal(values['test_seconds_sum|kind=a'], 1000)
check.equal({ kinds.test_total, kinds.test_level, kinds.test_seconds }, { 'counter', 'gauge', 'histogram' })
check.contains(metrics.text(), '# HELP test_total Counted by all.\\nA second line, and a \\\\.\n')

-- Buckets are cumulative; every number is one.
for _, value in ipairs { 0.1, 0.7, 1.5, 100, 1 / 0 } do histogram:observe(value, { kind = 'b' }) end
values = parse(metrics.text())
local function bucket(bound) return values['test_seconds_bucket|kind=b|le=' .. bound] end
check.equal({ bucket '0.5', bucket '1', bucket '2', bucket '+Inf' }, { 1, 2, 3, 5 })
check.equal(values['test_seconds_sum|kind=b'], 1 / 0)
local odd = metrics.gauge('test_odd', '')
for value, text in pairs { [1 / 0] = '+Inf', [-1 / 0] = '-Inf', [1e300] = '1e300', [-2.5] = '-2.5' } do
  odd:set(value)
  check.contains(metrics.text(), 'test_odd ' .. text .. '\n')
end
odd:set(0 / 0)
check.contains(metrics.text(), 'test_odd NaN\n')
parse(metrics.text())

-- Values of labels: any text, numbers and booleans.
for i, value in ipairs { 'a "quoted" \\ \n text', '', 5, true, 'grün', ('x'):rep(1000), '\0' } do
  gauge:set(i, { room = value })
end
values = parse(metrics.text())
check.equal(values['test_level|room=a "quoted" \\ \n text'], 1)
check.equal({ values['test_level|room='], values['test_level|room=5'], values['test_level|room=true'] }, { 2, 3, 4 })
check.equal(values['test_level|room=' .. ('x'):rep(256)], 6)
local several = metrics.counter('test_several_total', '', { 'a', 'b' })
several:add(2, { a = 'x', b = 'y' })
several:inc { b = 'y', a = 'x' }
several:inc { a = 'y', b = 'x' }
several:add { a = 'y', b = 'x' }
values = parse(metrics.text())
check.equal({ values['test_several_total|a=x|b=y'], values['test_several_total|a=y|b=x'] }, { 3, 2 })

-- More sets of values than the limit are one.
local busy = metrics.counter('test_busy_total', '', { labels = { 'who' }, series_max = 3 })
for i = 1, 1000 do busy:inc { who = 'client ' .. i } end
busy:inc { who = 'client 1' }
values = parse(metrics.text())
check.equal({ values['test_busy_total|who=client 1'], values['test_busy_total|who=client 3'],
  values['test_busy_total|who=client 4'], values['test_busy_total|who=_other'] }, { 2, 1, nil, 997 })

-- time: results, errors, and the labels.
check.equal({ histogram:time({ kind = 'c' }, function(...) return ... end, 1, nil, 3) }, { 1, nil, 3 })
local function fail() error 'inside' end
local e = check.raises('RuntimeError', 'inside', histogram.time, histogram, { kind = 'c' }, fail)
check.contains(e.msg, 'metrics.lua:')
histogram:time({ kind = 'c' }, function() yue.sleep(0.01) end)
values = parse(metrics.text())
check.equal(values['test_seconds_count|kind=c'], 3)
check.that(values['test_seconds_sum|kind=c'] >= 0.01)
local plain = metrics.histogram('test_plain_seconds', '')
check.equal(plain:time(function() return 'x' end), 'x')
check.equal(parse(metrics.text())['test_plain_seconds_bucket|le=10'], 1)

-- Refusals
local function refused(part, fn, ...) check.raises('ArgumentError', part, fn, ...) end
refused('test_total exists: it is a counter, not a gauge', metrics.gauge, 'test_total', '')
refused('its labels are ["room"], not ["hall"]', metrics.gauge, 'test_level', '', { 'hall' })
refused('its buckets are others', metrics.histogram, 'test_seconds', '', { labels = { 'kind' } })
refused('test_seconds_sum would be taken for those of test_seconds', metrics.counter, 'test_seconds_sum', '')
metrics.counter('test_more_count', '')
refused('test_more would be taken for those of test_more_count', metrics.histogram, 'test_more', '')
for _, name in ipairs { '', '1a', 'a b', 'a-b', 'a\n', 'grün', 7 } do
  refused('the name of a metric', metrics.counter, name, '')
end
refused('yue_ or process_ are taken', metrics.gauge, 'yue_mine', '')
refused('a help text, not nil', metrics.gauge, 'test_x')
for _, label in ipairs { '1', 'a-b', '__a', '' } do
  refused('cannot be a label', metrics.gauge, 'test_x', '', { label })
end
refused('le cannot be a label', metrics.histogram, 'test_x', '', { 'le' })
refused('the label a is there twice', metrics.gauge, 'test_x', '', { 'a', 'a' })
refused('has no option bucket; it has: labels, series_max', metrics.gauge, 'test_x', '', { bucket = {} })
local many = {}
for i = 1, 17 do many[i] = 'a' .. i end
refused('up to 16 labels', metrics.gauge, 'test_x', '', many)
refused('series_max is a number from 1', metrics.gauge, 'test_x', '', { series_max = 0 })
refused('1 to 200 upper bounds', metrics.histogram, 'test_x', '', { buckets = {} })
refused('ascending numbers', metrics.histogram, 'test_x', '', { buckets = { 1, 1 } })
for _, n in ipairs { -1, 0 / 0, 1 / 0, 'x' } do refused('a number of at least 0', counter.add, counter, n) end
refused('has no labels', counter.inc, counter, { room = 'x' })
refused("needs its labels, such as { room = … }, not nil", gauge.set, gauge, 1)
refused('has no label hall', gauge.set, gauge, 1, { room = 'new', hall = 'x' })
refused('needs a text for its label room, not nil', gauge.set, gauge, 1, {})
refused('needs a text for its label room, not a table', gauge.set, gauge, 1, { room = {} })
refused('takes a number, not a string', gauge.set, gauge, 'x', { room = 'all' })
refused('takes a number', histogram.observe, histogram, 0 / 0, { kind = 'a' })
refused('h:time takes a function', plain.time, plain, 5)
refused('has no label x', histogram.time, histogram, { x = 1 }, print)
check.raises('ArgumentError', 'works only in its own program', function()
  local c, listener = check.pair { f = function() end }
  local ok, e = pcall(c.f, counter)
  listener:close()
  if not ok then error(e, 0) end
end)
check.done()
