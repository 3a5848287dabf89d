-- A peer that speaks raw bytes over TCP, as a client or as a server: plain sockets, never waited for.
local ffi = require 'ffi'
ffi.cdef [[
  struct raw_address { unsigned short family; unsigned short port; unsigned char host[4]; char zero[8]; };
  int socket(int domain, int kind, int protocol);
  int connect(int fd, const struct raw_address *address, unsigned length);
  long send(int fd, const void *bytes, size_t length, int flags);
  long recv(int fd, void *bytes, size_t length, int flags);
  int bind(int fd, const struct raw_address *address, unsigned length);
  int listen(int fd, int backlog);
  int getsockname(int fd, struct raw_address *address, unsigned *length);
  int accept4(int fd, void *address, unsigned *length, int flags);
  int close(int fd);
]]
local DONTWAIT = 0x40
local raw = {}
raw.__index = raw

--- Connects to the port of a `tcp://127.0.0.1:port` address.
function raw.connect(address)
  local port = tonumber(address:match ':(%d+)$')
  local fd = ffi.C.socket(2, 1, 0)
  local to = ffi.new('struct raw_address', 2, port % 256 * 256 + math.floor(port / 256), { 127, 0, 0, 1 })
  -- The listener's backlog takes it at once.
  assert(fd >= 0 and ffi.C.connect(fd, to, 16) == 0, 'it connects')
  return setmetatable({ fd = fd, heard = '', ended = false }, raw)
end

--- Sends the bytes; small ones always fit.
function raw:send(bytes)
  assert(ffi.C.send(self.fd, bytes, #bytes, DONTWAIT) == #bytes, 'it is sent')
end

--- Takes the bytes that have arrived. Returns whether the peer has ended the link.
function raw:listen()
  local buffer = ffi.new 'char[65536]'
  while not self.ended do
    local count = tonumber(ffi.C.recv(self.fd, buffer, 65536, DONTWAIT))
    if count > 0 then
      self.heard = self.heard .. ffi.string(buffer, count)
    else
      -- Nothing yet (EAGAIN), the end, or a reset.
      self.ended = count == 0 or ffi.errno() ~= 11
      break
    end
  end
  return self.ended
end

--- Serves each connection by `fn(link)`, in a fiber of its own. Returns the address, and a function that ends it.
function raw.serve(fn)
  local fd = ffi.C.socket(2, 1 + 0x800, 0) -- SOCK_STREAM, SOCK_NONBLOCK
  local at, length = ffi.new('struct raw_address', 2, 0, { 127, 0, 0, 1 }), ffi.new('unsigned[1]', 16)
  assert(fd >= 0 and ffi.C.bind(fd, at, 16) == 0 and ffi.C.listen(fd, 16) == 0, 'it listens')
  assert(ffi.C.getsockname(fd, at, length) == 0)
  local over = false
  local fiber = yue.spawn(function()
    while not over do
      local link = ffi.C.accept4(fd, nil, nil, 0)
      if link >= 0 then
        yue.spawn(fn, setmetatable({ fd = link, heard = '', ended = false }, raw))
      else
        yue.sleep(0.002)
      end
    end
    ffi.C.close(fd)
  end)
  local port = at.port % 256 * 256 + math.floor(at.port / 256)
  return ('tcp://127.0.0.1:%d'):format(port), function()
    over = true
    fiber:sync()
  end
end

--- Waits until something has come, and takes it; nil at the end.
function raw:take()
  while self.heard == '' do
    if self:listen() and self.heard == '' then return nil end
    if self.heard == '' then yue.sleep(0.002) end
  end
  local heard = self.heard
  self.heard = ''
  return heard
end

function raw:close()
  ffi.C.close(self.fd)
end

return raw
