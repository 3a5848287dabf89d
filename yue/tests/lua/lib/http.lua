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

return http
