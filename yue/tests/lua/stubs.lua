-- The editor stubs have every name of the API, with the same kind of value, and no other.
local check = require 'check'

local function merge(into, from)
  for name, value in pairs(from) do
    if type(value) == 'table' and type(into[name]) == 'table' then merge(into[name], value) else into[name] = value end
  end
end
local stubs, source = {}, ''
for file in os.getenv('YUE_META'):gmatch '[^:]+' do
  merge(stubs, dofile(file))
  source = source .. assert(io.open(file)):read('*a')
end

-- Tables whose names the stubs leave to a type: table<string, …>.
local open = { args = true, const = true, errors = true, feature = true, config = true, ['thread.current'] = true,
  ffi = true, stdin = true }

local function kind(value)
  local meta = getmetatable(value)
  return type(value) == 'table' and type(meta) == 'table' and meta.__call and 'callable' or type(value)
end

local function compare(path, real, stub)
  local names = {}
  for name in pairs(real) do names[name] = true end
  for name in pairs(stub) do names[name] = true end
  for name in pairs(names) do
    local where = path .. name
    check.that(real[name] ~= nil, where .. ' is in the stubs only')
    check.that(stub[name] ~= nil, where .. ' is not in the stubs')
    local is, says = kind(real[name]), kind(stub[name])
    check.that(is == says or (is == 'callable' and says == 'table'), where .. ' is a ' .. is .. ', not a ' .. says)
    if type(real[name]) == 'table' and not open[where] then compare(where .. '.', real[name], stub[name]) end
  end
end
compare('', yue, stubs)

-- Methods: each that a stub declares is there.
local listener = yue.listen('tcp://127.0.0.1:0', {})
local thread = yue.thread('stubs', function() end)
local page = yue.listen('tcp://127.0.0.1:0', { http = {} }, {})
local client
yue.client(function(cl) client = cl return true end)
local objects = {
  Emitter = yue.emitter(), Connection = yue.socket(listener:addr()), Listener = listener, Thread = thread,
  Fiber = yue.fiber(print), Future = yue.open(listener:addr()).async_notify_x(), Error = yue.errors.Error.new('x'),
  Answers = yue.open('mcast://239.255.77.3:9', { interface = '127.0.0.1' }, nil).timed_mcast_x(0),
  Group = yue.group(), Client = client, Current = { import = true, exit = true },
  Channel = yue.channel(), Mutex = yue.mutex(), Semaphore = yue.semaphore(1), Event = yue.event(),
  TaskGroup = yue.taskgrp('stubs', 1, 1, 1),
  Counter = yue.metrics.counter('stubs_total', ''), Gauge = yue.metrics.gauge('stubs', ''),
  Histogram = yue.metrics.histogram('stubs_seconds', ''), Process = yue.process.spawn { 'true' },
  HttpClient = yue.http.client(), HttpResponse = yue.http.get((page:addr():gsub('^tcp', 'http'))),
  TaskGroup = yue.taskgrp('stubs', 1, 1, 1), Process = yue.process.spawn { 'true' },
}
objects.Reader = objects.Process.out
local server = yue.http.serve('tcp://127.0.0.1:0', function(req)
  objects.ServerRequest = req
  objects.HttpWriter = req:respond(200)
end)
yue.http.get(server:url())
objects.HttpServer = server
local streams = yue.net.listen 'tcp://127.0.0.1:0'
objects.StreamListener, objects.Stream, objects.Datagrams = streams, yue.net.connect(streams:addr()), yue.net.udp()
local methods, declared = 0, {}
for class, method in source:gmatch('function (%u%w*):([%w_]+)') do
  methods = methods + 1
  declared[class .. ':' .. method] = true
  check.that(objects[class], class)
  check.that(objects[class][method], class .. ' has no ' .. method)
end
check.that(methods > 20)
-- And the other way round: each method that an object has is declared, for its class or the one above.
for class, object in pairs(objects) do
  local meta = getmetatable(object)
  local own = meta and rawget(meta, '__index')
  for name, value in pairs(type(own) == 'table' and own or {}) do
    if type(value) == 'function' and not name:find '^__' and name ~= 'on_close' then
      local found = declared[class .. ':' .. name] or declared['Emitter:' .. name] or declared['Future:' .. name]
      check.that(found, class .. ':' .. name .. ' is not in the stubs')
    end
  end
end
thread:close()
server:close()
page:close()
listener:close()
check.done()
