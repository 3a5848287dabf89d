-- A plain client that ends its sending direction gets the answers to what it asked.
local check = require 'check'
local ffi = require 'ffi'
ffi.cdef [[
  int shutdown(int fd, int how);
  int getpeername(int fd, unsigned char *address, unsigned *length);
]]

--- The descriptor of the client's socket: the one that is connected to the listener's port, or file.
local function client_socket(address)
  local port, path = tonumber(address:match ':(%d+)$'), address:match '^unix://(.*)$'
  for fd = 3, 255 do
    local name, length = ffi.new 'unsigned char[256]', ffi.new('unsigned[1]', 256)
    if ffi.C.getpeername(fd, name, length) == 0 and length[0] > 3 then
      if port and name[2] * 256 + name[3] == port or path and ffi.string(name + 2) == path then return fd end
    end
  end
end

return {
  needs = { 'half_close' },
  server = function()
    return {
      nap = function(seconds, x) yue.sleep(seconds) return x end,
      f = function(x) return x end,
    }
  end,
  client = function(endpoint)
    local c = endpoint.open { reconnect = false, legacy = true }
    check.equal(c.f(1), 1)
    local futures = {}
    for i = 1, 20 do futures[i] = c.async_nap(0.001 * i, i) end
    yue.sleep(0.002)
    check.equal(ffi.C.shutdown(client_socket(endpoint.address), 1), 0)
    for i = 1, 20 do check.equal(futures[i]:get(), i) end
  end,
}
