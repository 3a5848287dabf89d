-- A service in one file: todo items by HTTP and JSON, live updates by WebSocket, metrics. Run it with:  yue service.lua
--
--   curl -d '{"title": "buy bread"}' http://127.0.0.1:8080/items
--   curl http://127.0.0.1:8080/items
--   curl -X PATCH -d '{"done": true}' http://127.0.0.1:8080/items/1
--   curl -X DELETE http://127.0.0.1:8080/items/1
--   curl http://127.0.0.1:8080/metrics
--
-- The items live in this program's memory, on one loop: run it without `-c`. examples/chat shows how a program shares
-- its state between loops.
local yue = require 'yue'

local ITEMS_MAX, TITLE_MAX = 10000, 200
local NO_ITEM = 'there is no such item'

local items, last_id, count = {}, 0, 0
local changes = yue.metrics.counter('todo_changes_total', 'Changes of items.', { 'kind' })
local present = yue.metrics.gauge('todo_items', 'Items now.')

-- Clients that want to know of changes. A notification never waits for one that is slow.
local watchers = yue.group 'watchers'

local function tell(kind, item)
  changes:inc { kind = kind }
  present:set(count)
  watchers.notify_changed(kind, item)
end

--- A list of all items, in the order in which they were made.
local function list()
  local all = {}
  for _, item in pairs(items) do all[#all + 1] = item end
  table.sort(all, function(a, b) return a.id < b.id end)
  return yue.array(all)
end

--- Reads a JSON object from the body. Returns nil and what is wrong with it.
local function read_fields(req)
  local fields = req:json() -- a body that is not JSON is answered with 400
  if type(fields) ~= 'table' then return nil, 'an object is expected' end
  local title, done = fields.title, fields.done
  if title ~= nil and (type(title) ~= 'string' or title == '' or #title > TITLE_MAX) then
    return nil, ('the title is a text of 1 to %d bytes'):format(TITLE_MAX)
  end
  if done ~= nil and type(done) ~= 'boolean' then return nil, 'done is true or false' end
  return { title = title, done = done }
end

local function refuse(status, problem)
  return status, yue.json.encode { error = problem }, { ['content-type'] = 'application/json' }
end

local server = yue.http.serve(yue.args[1] or 'tcp://127.0.0.1:8080', {
  ['GET /items'] = function() return list() end,

  ['POST /items'] = function(req)
    local fields, problem = read_fields(req)
    if not fields or not fields.title then return refuse(400, problem or 'a title is needed') end
    if count >= ITEMS_MAX then return refuse(507, 'there are too many items') end
    last_id, count = last_id + 1, count + 1
    local item = { id = last_id, title = fields.title, done = fields.done or false }
    items[item.id] = item
    tell('created', item)
    return 201, item, { location = '/items/' .. item.id }
  end,

  ['GET /items/:id'] = function(req)
    return items[tonumber(req.params.id)] or refuse(404, NO_ITEM)
  end,

  ['PATCH /items/:id'] = function(req)
    local fields, problem = read_fields(req)
    if not fields then return refuse(400, problem) end
    -- Look for the item now, not before: while the body arrived, it may have been deleted.
    local item = items[tonumber(req.params.id)]
    if not item then return refuse(404, NO_ITEM) end
    if fields.title then item.title = fields.title end
    if fields.done ~= nil then item.done = fields.done end
    tell('changed', item)
    return item
  end,

  ['DELETE /items/:id'] = function(req)
    local item = items[tonumber(req.params.id)]
    if not item then return refuse(404, NO_ITEM) end
    items[item.id], count = nil, count - 1
    tell('deleted', item)
  end,

  ['GET /metrics'] = function() return yue.metrics.text() end,

  -- A client of the WebSocket calls `watch`, and is notified by `changed(kind, item)` from then on.
  ['WS /live'] = {
    watch = function()
      watchers:join(yue.peer())
      return list()
    end,
  },
})

print('serving at ' .. server:url())
