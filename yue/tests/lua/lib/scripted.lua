-- An HTTP server whose answers a test writes byte by byte, over `raw`.
local raw = require 'raw'
local scripted = {}

local function headers_of(head)
  local headers = {}
  for name, value in head:gmatch '\r\n([%w-]+): ([^\r]*)' do headers[name:lower()] = value end
  return headers
end

--- Reads one request of a link: `{ method, path, head, headers, body }`, or nil at the link's end.
function scripted.read(link)
  local text = ''
  local function need(part)
    while not text:find(part, 1, true) do
      local more = link:take()
      if not more then return nil end
      text = text .. more
    end
    return true
  end
  if not need '\r\n\r\n' then return nil end
  local head, rest = text:match '^(.-)\r\n\r\n(.*)$'
  local request = { head = head, headers = headers_of(head) }
  request.method, request.path = head:match '^(%S+) (%S+) HTTP/1.[01]'
  text = rest
  if request.headers['transfer-encoding'] == 'chunked' then
    if text:sub(1, 5) ~= '0\r\n\r\n' and not need '\r\n0\r\n\r\n' then return nil end
    request.body = ''
    local at = 1
    request.chunks = 0
    while true do
      local _, stop, size = text:find('^(%x+)\r\n', at)
      size = tonumber(size, 16)
      if size == 0 then
        text = text:sub(stop + 3)
        break
      end
      request.chunks = request.chunks + 1
      request.body = request.body .. text:sub(stop + 1, stop + size)
      at = stop + size + 3
    end
  else
    local length = tonumber(request.headers['content-length'] or 0)
    while #text < length do
      local more = link:take()
      if not more then return nil end
      text = text .. more
    end
    request.body, text = text:sub(1, length), text:sub(length + 1)
  end
  link.heard = text .. link.heard
  return request
end

--- Serves: `answer(request, link)` returns the bytes of the answer; with `'close'` as a second result the link is
--- closed after them. The server has `url` (without a path), `requests` (a list), `stop()`, `links` (the number of
--- connections so far) and `open` (those that are open).
function scripted.serve(answer)
  local server = { links = 0, open = 0, requests = {} }
  local links, address, stop = {}, nil, nil
  address, stop = raw.serve(function(link)
    server.links, server.open = server.links + 1, server.open + 1
    links[link] = true
    local number = server.links
    while true do
      local request = scripted.read(link)
      if not request then break end
      request.link = number
      server.requests[#server.requests + 1] = request
      local bytes, ends = answer(request, link)
      -- The client may have gone.
      if bytes and not pcall(link.send, link, bytes) then break end
      if ends == 'close' then break end
    end
    link:close()
    links[link] = nil
    server.open = server.open - 1
  end)
  function server.stop()
    -- A client may keep connections for long.
    for link in pairs(links) do link.ended = true end
    stop()
  end
  server.url = address:gsub('^tcp', 'http')
  server.address = address
  return server
end

--- An answer with a length.
function scripted.answer(body, status, headers)
  return ('HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s'):format(status or '200 OK', #body, headers or '', body)
end

return scripted
