-- An HTTP client by hand, over `raw`.
local raw = require 'raw'
local http = {}

--- Reads one answer: its status, headers (names in lower case), and body.
function http.read(link)
  local text = ''
  while not text:find('\r\n\r\n', 1, true) do
    local more = link:take()
    if not more then return nil end
    text = text .. more
  end
  local head, rest = text:match '^(.-\r\n)\r\n(.*)$'
  local headers = {}
  for name, value in head:gmatch '([%w-]+): ([^\r]*)\r\n' do headers[name:lower()] = value end
  local length = tonumber(headers['content-length'] or 0)
  while #rest < length do rest = rest .. assert(link:take(), 'the body is whole') end
  return tonumber(head:match '^HTTP/1.1 (%d+)'), rest, headers
end

--- Calls a function by HTTP; returns the answer's status, body and headers.
function http.post(address, path, body, headers)
  local link = raw.connect('tcp://127.0.0.1:' .. address:match ':(%d+)')
  link:send(('POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s')
    :format(path, #body, headers or '', body))
  local status, text, answer = http.read(link)
  link:close()
  return status, text, answer
end

--- Sends bytes over a connection of its own; returns all that comes until the server ends it.
function http.send(address, bytes)
  local link = raw.connect('tcp://127.0.0.1:' .. address:match ':(%d+)')
  link:send(bytes)
  local parts = {}
  for part in function() return link:take() end do parts[#parts + 1] = part end
  link:close()
  return table.concat(parts)
end

--- The body of chunks, which must be whole.
local function join_chunks(text)
  local parts, at = {}, 1
  while true do
    local size, start = text:match('^(%x+)\r\n()', at)
    size = tonumber(assert(size, 'the size of a chunk'), 16)
    if size == 0 then break end
    parts[#parts + 1] = text:sub(start, start + size - 1)
    at = start + size + 2
  end
  return table.concat(parts)
end

--- One answer of a text that the server has ended; and what follows it. The status, the body, the headers, the rest.
function http.parse(text, is_head)
  local status, head, rest = text:match '^HTTP/1%.[01] (%d+)[^\r]*\r\n(.-\r\n)\r\n(.*)$'
  if not status then
    status, rest = text:match '^HTTP/1%.[01] (%d+)[^\r]*\r\n\r\n(.*)$'
    head = ''
  end
  assert(status, 'an answer: ' .. text)
  local headers = {}
  for name, value in head:gmatch '([%w-]+): ([^\r]*)\r\n' do
    name = name:lower()
    headers[name] = headers[name] and headers[name] .. ', ' .. value or value
  end
  local length = tonumber(headers['content-length'])
  if is_head then return tonumber(status), '', headers, rest end
  if headers['transfer-encoding'] then return tonumber(status), join_chunks(rest), headers end
  if not length then
    if status == '204' or status == '304' or status:sub(1, 1) == '1' then length = 0 else length = #rest end
  end
  return tonumber(status), rest:sub(1, length), headers, rest:sub(length + 1)
end

--- A request over a connection of its own: the answer's status, body and headers.
function http.ask(address, line, headers, body)
  local parts = { line .. ' HTTP/1.1', 'Host: localhost', 'Connection: close' }
  for name, value in pairs(headers or {}) do parts[#parts + 1] = name .. ': ' .. value end
  if body then parts[#parts + 1] = 'Content-Length: ' .. #body end
  local text = http.send(address, table.concat(parts, '\r\n') .. '\r\n\r\n' .. (body or ''))
  return http.parse(text, line:find '^HEAD ' ~= nil)
end

return http
