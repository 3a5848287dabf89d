-- The routes of the HTTP server: requests are matched by method and path.
--
-- A tree by the segments of paths. A node has `names` (by the segment's text), `any` (a parameter), `rest` (the routes
-- that take all further segments) and `routes` (by method, those that end here). The search prefers a text to a
-- parameter, and a parameter to a rest, from the left.
local core, yue, internal = ...
local type, pairs, tonumber = type, pairs, tonumber
local find, sub, gsub, match, char = string.find, string.sub, string.gsub, string.match, string.char
local concat, sort = table.concat, table.sort
local to_text = internal.to_text

local routes_api = {}
internal.http_routes = routes_api

local function decode_escape(digits)
  return char(tonumber(digits, 16))
end

--- The text without percent escapes; nil if one is malformed.
local function unescape(text)
  if not find(text, '%', 1, true) then return text end
  if find(gsub(text, '%%%x%x', ''), '%', 1, true) then return nil end
  return (gsub(text, '%%(%x%x)', decode_escape))
end

internal.http_unescape = unescape

local METHODS = { 'DELETE', 'GET', 'HEAD', 'OPTIONS', 'PATCH', 'POST', 'PUT' }

local function route_error(key, text)
  internal.argument_error(('yue.http.serve: the route %s: %s'):format(to_text(key), text))
end

--- Adds a route to a table by methods; an equal one is a mistake.
local function add_method(routes, method, route, key)
  if routes[method] then
    route_error(key, ('the same requests have another route, %s'):format(routes[method].key))
  end
  routes[method] = route
end

local function child(nodes, name)
  local node = nodes[name]
  if not node then
    node = { names = {} }
    nodes[name] = node
  end
  return node
end

--- Adds a route to the tree: its method, its path, its handler.
local function add_route(root, key, method, path, handler)
  local node, names = root, {}
  local route = { key = key, handler = handler, names = names }
  if path == '*' then return add_method(child(root, 'server').names, method, route, key) end
  if sub(path, 1, 1) ~= '/' then route_error(key, "a path begins with '/'") end
  if find(path, '[?#%s]') then route_error(key, 'a path is without query, fragment and blanks') end
  for segment, at in (sub(path, 2) .. '/'):gmatch '([^/]*)/()' do
    local mark, name = sub(segment, 1, 1), sub(segment, 2)
    if mark == ':' then
      if not find(name, '^[%a_][%w_]*$') then route_error(key, "a parameter is ':name'") end
      names[#names + 1] = name
      node = child(node, 'any')
    elseif mark == '*' then
      if at <= #path then route_error(key, "'*' is the last segment of a path") end
      if name ~= '' and not find(name, '^[%a_][%w_]*$') then route_error(key, "a rest is '*' or '*name'") end
      names[#names + 1] = name == '' and 'rest' or name
      node.rest, route.has_rest = node.rest or {}, true
      return add_method(node.rest, method, route, key)
    else
      node = child(node.names, unescape(segment) or route_error(key, 'an escape is a percent sign and two digits'))
    end
  end
  for i = 1, #names do
    for j = 1, i - 1 do
      if names[i] == names[j] then route_error(key, ('two parameters have the name %s'):format(names[i])) end
    end
  end
  node.routes = node.routes or {}
  add_method(node.routes, method, route, key)
end

--- The routes of a path, and the values of its parameters in `values`.
local function search(node, segments, at, values, count)
  local segment = segments[at]
  if segment == nil then
    return node.routes
  end
  local named = node.names[segment]
  local found = named and search(named, segments, at + 1, values, count)
  if found then return found end
  if node.any and segment ~= '' then
    values[count + 1] = segment
    found = search(node.any, segments, at + 1, values, count + 1)
    if found then return found end
  end
  if node.rest then
    values[count + 1] = concat(segments, '/', at)
    return node.rest
  end
  return nil
end

-- Deeper paths belong to no program; the search tries at most a few ways for each segment.
local SEGMENTS_MAX = 256

--- The routes of a path by method, and the values of the parameters. The status of a refusal if there are none.
local function look_up(tree, path)
  local exact = tree.exact[path]
  if exact then return exact, nil end
  if path == '*' then return tree.root.server and tree.root.server.names, nil, 404 end
  local segments, count = {}, 0
  for segment in (sub(path, 2) .. '/'):gmatch '([^/]*)/' do
    count = count + 1
    if count > SEGMENTS_MAX then return nil, nil, 404 end
    local text = unescape(segment)
    if not text then return nil, nil, 400 end
    segments[count] = text
  end
  local values = {}
  return search(tree.root, segments, 1, values, 0), values, 404
end

--- The methods that the routes of a path answer, for the header `allow`.
local function allowed(routes)
  local list = {}
  for _, method in pairs(METHODS) do
    local has = routes.ANY or routes[method] or method == 'OPTIONS' or (method == 'HEAD' and routes.GET)
    if has then list[#list + 1] = method end
  end
  for method in pairs(routes) do
    local known = method == 'ANY' or method == 'WS'
    for i = 1, #METHODS do known = known or METHODS[i] == method end
    if not known then list[#list + 1] = method end
  end
  if routes.WS and not routes.GET and not routes.ANY then list[#list + 1] = 'GET' end
  sort(list)
  return concat(list, ', ')
end

--- The tree of a table of routes. `make_handler(key, method, path, value)` returns the handler of each.
function routes_api.make(routes, make_handler)
  local root = { names = {} }
  local keys = {}
  for key in pairs(routes) do
    if type(key) ~= 'string' then route_error(key, "a route is a string like 'GET /path'") end
    keys[#keys + 1] = key
  end
  -- The order of a table is random; an error must not depend on it.
  sort(keys)
  local exact = {}
  for _, key in pairs(keys) do
    local method, path = match(key, '^(%S+)%s+(%S+)$')
    if not method then method, path = 'ANY', match(key, '^(/%S*)$') end
    if not path then route_error(key, "a route is a method and a path, like 'GET /users/:id'") end
    if method == '*' then method = 'ANY' end
    if not find(method, '^%u[%u%d_-]*$') then route_error(key, 'a method is in upper case') end
    if method == 'CONNECT' then route_error(key, 'CONNECT is for proxies') end
    add_route(root, key, method, path, make_handler(key, method, path, routes[key]))
  end
  -- Paths without parameters and escapes are found at once.
  for _, key in pairs(keys) do
    local path = match(key, '(%S+)$')
    if path ~= '*' and not find(path, '[:*%%]') then
      local node = root
      for segment in (sub(path, 2) .. '/'):gmatch '([^/]*)/' do node = node.names[segment] end
      exact[path] = node.routes
    end
  end
  return { root = root, exact = exact }
end

routes_api.error, routes_api.look_up, routes_api.allowed, routes_api.METHODS = route_error, look_up, allowed, METHODS
