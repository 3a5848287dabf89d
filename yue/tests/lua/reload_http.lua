-- HTTP and reloads: a request that begins after a reload runs the present version, on a kept connection too; one that
-- has begun before ends in its own.
local check = require 'check'
local folder = yue.fs.temp()
package.path = folder .. '/?.lua;' .. package.path
local function write(n) yue.fs.write(folder .. '/code.lua', ('return { n = %d }'):format(n)) end
write(1)
local began, gate = yue.event(), yue.event()
local server = yue.http.serve('tcp://127.0.0.1:0', {
  ['GET /'] = function() return tostring(require 'code'.n) end,
  ['GET /slow'] = function()
    local before = require 'code'.n
    began:set()
    gate:wait()
    return before .. ' ' .. require 'code'.n
  end,
})
local function get(path) return yue.http.get(server:url() .. path).body end
check.equal(get '/', '1')
local slow = yue.spawn(get, '/slow')
began:wait()
for n = 2, 5 do
  write(n)
  yue.reload()
  check.equal(get '/', tostring(n))
end
gate:set()
check.equal(slow:get(), '1 1')
check.equal(get '/slow', '5 5')
server:close()
check.eventually(function()
  local versions = 0
  for _ in pairs(yue.reload.versions()) do versions = versions + 1 end
  return versions == 1
end)
check.done()
