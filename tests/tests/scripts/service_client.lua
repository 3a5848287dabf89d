-- A client of examples/service.lua, whose URL it gets: items by HTTP, live updates by WebSocket, and metrics.
local yue = require 'yue'
local url = yue.args[1]
local http = yue.http

local function equal(got, expected)
  assert(got == expected, ('%s, not %s'):format(tostring(got), tostring(expected)))
end

local heard = yue.channel(100)
local live = yue.open(url:gsub('^http', 'ws') .. '/live', nil, {
  changed = function(kind, item) heard:put(kind .. ' ' .. item.title .. ' ' .. tostring(item.done)) end,
})
equal(#live.watch(), 0)

local made = http.post(url .. '/items', nil, { json = { title = 'buy bread' } })
equal(made.status, 201)
equal(made.headers.location, '/items/1')
equal(heard:get(20), 'created buy bread false')
local item = url .. made.headers.location
equal(http.request { method = 'PATCH', url = item, json = { done = true } }:json().done, true)
equal(heard:get(20), 'changed buy bread true')
equal(#http.get(url .. '/items'):json(), 1)
equal(http.get(item):json().title, 'buy bread')
equal(#live.watch(), 1)

-- What is refused changes nothing.
for _, bad in ipairs { { title = '' }, { title = 1 }, { title = ('x'):rep(201) }, { done = 1, title = 'x' }, {} } do
  equal(http.post(url .. '/items', nil, { json = bad }).status, 400)
end
equal(http.post(url .. '/items', 'not json').status, 400)
equal(http.post(url .. '/items', '1').status, 400)
equal(http.get(url .. '/items/2').status, 404)
equal(http.get(url .. '/items/x').status, 404)
equal(http.request({ method = 'PATCH', url = url .. '/items/2', json = { done = true } }).status, 404)

equal(http.request({ method = 'DELETE', url = item }).status, 204)
equal(heard:get(20), 'deleted buy bread true')
equal(http.request({ method = 'DELETE', url = item }).status, 404)
equal(http.get(url .. '/items').body, '[]')
local metrics = http.get(url .. '/metrics').body
for _, kind in ipairs { 'created', 'changed', 'deleted' } do
  local line = ('todo_changes_total{kind="%s"} 1'):format(kind)
  assert(metrics:find(line, 1, true), metrics)
end
assert(metrics:find('todo_items 0', 1, true), metrics)
equal(heard:get(0), nil)
print 'the service works'
