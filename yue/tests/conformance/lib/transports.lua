-- The transports that the suite runs over. A new transport is one entry here; the tests and the book's table follow.
--
--   scheme    the beginning of its addresses, and its name in the table
--   address   where the server of a behaviour listens; called for each server
--   server    'here': in the client's loop; 'thread': in another loop; 'child': in a process of its own
--   listen    options that every listener needs
--   open      options that every client needs
--   has       what is special about it: `tracebacks` of errors travel by default
--   lacks     features that it does not have, with the reason: behaviours that need one do not run over it
--
-- `features.lua` lists the features.
local number = 0

--- A name that no other server of this process has.
local function unique(prefix)
  number = number + 1
  return prefix .. number
end

--- A file that `command/tests/conformance.rs` has made.
local function certificate(name)
  local folder = os.getenv 'YUE_CERTIFICATES'
  return folder and ('%s/%s.pem'):format(folder, name)
end

local tls = {
  listen = { cert = certificate 'server', key = certificate 'server-key' },
  open = { ca = certificate 'ca' },
}

local NOTICED = 'the end of the process at the other end is noticed at once'
local BY_MESSAGE = 'only a session can end one direction, by a message of the transport: see `rpc/tests/`'

return {
  { scheme = 'tcp', server = 'here', address = function() return 'tcp://127.0.0.1:0' end },
  {
    scheme = 'tls',
    server = 'here',
    address = function() return 'tls://127.0.0.1:0' end,
    listen = tls.listen,
    open = tls.open,
    lacks = { half_close = BY_MESSAGE },
  },
  {
    scheme = 'unix',
    server = 'here',
    address = function()
      local file = os.tmpname()
      os.remove(file)
      return 'unix://' .. file
    end,
    has = { tracebacks = true },
    lacks = { keepalive = NOTICED },
  },
  {
    scheme = 'ws',
    server = 'here',
    address = function() return 'ws://127.0.0.1:0/rpc' end,
    lacks = { half_close = BY_MESSAGE },
  },
  {
    scheme = 'wss',
    server = 'here',
    address = function() return 'wss://127.0.0.1:0/rpc' end,
    listen = tls.listen,
    open = tls.open,
    lacks = { half_close = BY_MESSAGE },
  },
  {
    scheme = 'udp',
    server = 'here',
    address = function() return 'udp://127.0.0.1:0' end,
    lacks = {
      hello = 'datagrams carry plain msgpack-rpc',
      connection = 'a datagram belongs to no connection: there is no end',
      order = 'datagrams may be lost, and overtake each other',
      large = 'a message is one datagram, of 65 507 bytes at most',
      references = 'functions belong to a connection',
      half_close = 'a datagram belongs to no connection: there is no end',
      when_full = 'what does not fit into the buffers of the system is lost',
      keepalive = 'a datagram belongs to no connection: there is no end',
    },
  },
  {
    scheme = 'thread',
    server = 'thread',
    address = function() return 'thread://' .. unique 'conformance-' end,
    has = { tracebacks = true },
    lacks = {
      half_close = 'both directions of a link within a process end at once',
      keepalive = NOTICED,
      when_full = 'a notification for a thread that does not keep up raises `QueueFullError`',
    },
  },
  {
    scheme = 'popen',
    server = 'child',
    address = function() return 'stdio://' end,
    lacks = {
      listener = 'each connection starts a program for itself',
      half_close = 'the end of its input ends the program',
      keepalive = NOTICED,
    },
  },
}
