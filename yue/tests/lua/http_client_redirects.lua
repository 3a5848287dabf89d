-- yue.http: redirects.
local check = require 'check'
local scripted = require 'scripted'
local http = yue.http
local answer = scripted.answer

local other = scripted.serve(function(request) return answer('other ' .. request.method .. ' ' .. request.body) end)
local function respond(request)
  local path, query = request.path:match '^([^?]*)%??(.*)$'
  local status = path:match '^/(%d%d%d)$'
  if status then return answer('moved', status .. ' Moved', 'Location: ' .. query .. '\r\n') end
  if path == '/loop' then return answer('', '302 Found', 'Location: /loop\r\n') end
  if path == '/bare' then return answer('no location', '302 Found') end
  local count = tonumber(path:match '^/count/(%d+)$')
  if count and count > 0 then return answer('', '307 Go', ('Location: %d\r\n'):format(count - 1)) end
  return answer(('%s %s %s'):format(request.method, request.path, request.body))
end
local server = scripted.serve(function(request)
  local bytes = respond(request)
  return request.method == 'HEAD' and bytes:match '^.-\r\n\r\n' or bytes
end)
local url = server.url
local function last() return server.requests[#server.requests] end

-- The method and the body after each status.
for status, methods in pairs {
  [301] = { GET = 'GET', HEAD = 'HEAD', POST = 'GET', PUT = 'PUT' },
  [302] = { GET = 'GET', HEAD = 'HEAD', POST = 'GET', DELETE = 'DELETE' },
  [303] = { GET = 'GET', HEAD = 'HEAD', POST = 'GET', PUT = 'GET' },
  [307] = { GET = 'GET', POST = 'POST', PUT = 'PUT' },
  [308] = { GET = 'GET', POST = 'POST' },
} do
  for method, after in pairs(methods) do
    local body = (method == 'POST' or method == 'PUT') and 'text' or nil
    local r = http.request {
      url = ('%s/%d?/there'):format(url, status), method = method, body = body,
      headers = { ['Content-Type'] = body and 'text/plain' or false },
    }
    local kept = after == method and body or nil
    check.equal({ r.status, r.url }, { 200, url .. '/there' })
    check.equal({ last().method, last().body, last().headers['content-type'] },
      { after, kept or '', kept and 'text/plain' or nil }, method .. ' ' .. status)
    if after ~= 'HEAD' then check.equal(r.body, after .. ' /there ' .. (kept or '')) end
  end
end
check.equal(server.links, 1)

-- Relative locations, and those without a path. A fragment is not sent.
check.equal(http.get(url .. '/count/3').url, url .. '/count/0')
check.equal(http.get(url .. '/302?//' .. url:match '//(.*)' .. '/x%20y#part').body, 'GET /x%20y ')
check.equal(http.get(url .. '/bare').body, 'no location')

-- How many are followed.
check.equal(http.get(url .. '/count/10').status, 200)
local e = check.raises('TransportError', 'redirected more than 10 times', http.get, url .. '/count/11')
check.contains(e.msg, 'raise redirects')
check.raises('TransportError', 'redirected more than 10 times, the last time to /loop', http.get, url .. '/loop')
check.raises('TransportError', 'more than 2 times', http.get, url .. '/count/3', { redirects = 2 })
local r = http.get(url .. '/count/3', { redirects = 0 })
check.equal({ r.status, r.headers.location, r.url }, { 307, '2', url .. '/count/3' })
check.equal(http.get(url .. '/count/3', { stream = true }):read '*a', 'GET /count/0 ')

-- Secrets stay at their origin.
local secrets = { Authorization = 'Bearer 1', Cookie = 'a=1', ['Proxy-Authorization'] = 'x', ['X-Other'] = 'kept' }
http.get(url .. '/302?/there', { headers = secrets })
check.equal({ last().headers.authorization, last().headers.cookie }, { 'Bearer 1', 'a=1' })
check.equal(http.post(url .. '/307?' .. other.url .. '/', 'text', { headers = secrets }).body, 'other POST text')
local there = other.requests[#other.requests].headers
check.equal({ there.authorization, there.cookie, there['proxy-authorization'], there['x-other'] },
  { nil, nil, nil, 'kept' })
check.equal(there.host, other.url:match '//(.*)')
local with_user = url:gsub('//', '//me:pw@')
http.get(with_user .. '/302?/there')
check.equal(last().headers.authorization, 'Basic ' .. yue.crypto.base64 'me:pw')
http.get(with_user .. '/302?' .. other.url .. '/')
check.equal(other.requests[#other.requests].headers.authorization, nil)
-- A server does not choose the user.
http.get(url .. '/302?' .. other.url:gsub('//', '//me:pw@') .. '/')
check.equal(other.requests[#other.requests].headers.authorization, nil)

-- What is not followed.
check.raises('AddressError', 'is not the URL', http.get, url .. '/302?file:///etc/passwd')
check.raises('AddressError', 'is not the URL', http.get, url .. '/302?http://')
local pieces = { 'a', 'b' }
check.raises('TransportError', 'cannot be repeated', http.post, url .. '/307?/there', function()
  return table.remove(pieces)
end)
pieces = { 'a', 'b' }
check.equal(http.post(url .. '/303?/there', function() return table.remove(pieces) end).body, 'GET /there ')

server.stop()
other.stop()
check.done()
