---@meta yue.net
-- LuaCATS stubs of `yue`, continued: sockets. They are never run. docs/src/lua-api.md explains.

---@class yue
local yue = {}

---Sockets: streams over TCP, TLS and Unix sockets, listeners, datagrams.
yue.net = {}

---@class yue.ConnectOptions
---@field timeout? number Seconds for connecting (10), and from then on for each operation (no limit).
---@field nodelay? boolean Small texts are sent at once; true by default.
---@field ca? string tls: the authorities that may have signed the server's certificate, a PEM file or its text.
---@field cert? string tls: this client's certificate, a PEM file or its text.
---@field key? string tls: the private key of `cert`.
---@field server_name? string tls: the name in the server's certificate, by default the host of the address.
---@field insecure? boolean tls: accept every server; the log says so.

---Connects to `tcp://host:port`, `tls://host:port` or `unix://path`.
---@param addr string
---@param options? yue.ConnectOptions
---@return yue.Stream
function yue.net.connect(addr, options) end

---@class yue.StreamListenOptions
---@field timeout? number Seconds for a TLS handshake (10), and for each operation of a stream (no limit).
---@field nodelay? boolean Small texts are sent at once; true by default.
---@field connections_max? integer Connections whose function may run at once; others wait. 10000 by default.
---@field cert? string tls: the certificate, a PEM file or its text.
---@field key? string tls: the private key of `cert`.
---@field client_ca? string tls: the authorities that must have signed a client's certificate.

---Listens at `tcp://host:port`, `tls://host:port` or `unix://path`. `handler` runs in a fiber of its own for each
---client; the stream is closed when it returns or raises. Without it the program calls `accept`.
---@overload fun(addr: string, handler: fun(stream: yue.Stream)): yue.StreamListener
---@param addr string
---@param options? yue.StreamListenOptions
---@param handler? fun(stream: yue.Stream)
---@return yue.StreamListener
function yue.net.listen(addr, options, handler) end

---@class yue.DatagramSocketOptions
---@field timeout? number Seconds that `receive` waits; no limit by default.
---@field broadcast? boolean Datagrams may go to broadcast addresses.

---A UDP socket at an address, by default at a free port for IPv4.
---@overload fun(options: yue.DatagramSocketOptions): yue.Datagrams
---@param addr? string
---@param options? yue.DatagramSocketOptions
---@return yue.Datagrams
function yue.net.udp(addr, options) end

---The addresses of a host, the preferred one first.
---@param name string
---@return string[]
function yue.net.resolve(name) end

---@class yue.Stream
local Stream = {}

---The next bytes, as they come; with `count` so many, or fewer at the end; with `'*a'` all. Nil at the end.
---@param count? integer|'*a'
---@return string?
function Stream:read(count) end

---The next line, without "\n" or "\r\n"; nil at the end. A line of more than `max` bytes (1 MiB) is an error.
---@param max? integer
---@return string?
function Stream:line(max) end

---Iterates over the lines.
---@param max? integer
---@return fun(): string?
function Stream:lines(max) end

---Iterates over the bytes as they come.
---@return fun(): string?
function Stream:chunks() end

---Writes the texts as one: waits until the kernel has taken them.
---@param text string|number
---@param ... string|number
function Stream:write(text, ...) end

---Ends this side's direction: the peer reads the end, and this side can still read.
function Stream:shutdown() end

---Closes the stream. Fibers that read from it or write to it get an error.
function Stream:close() end

---The address of this end; nil if it has none, like a client's end of a Unix socket.
---@return string?
function Stream:addr() end

---The address of the peer; nil if it has none.
---@return string?
function Stream:peer_addr() end

---The name in the peer's TLS certificate, which this side has verified; nil if it showed none.
---@return string?
function Stream:peer_name() end

---Sets the seconds that each operation may take; nil for no limit.
---@param seconds? number
function Stream:set_timeout(seconds) end

---Makes this a TLS connection from now on: as the client, or of a stream that a listener accepted, as the server.
---@param options? yue.ConnectOptions|yue.StreamListenOptions
function Stream:starttls(options) end

---@class yue.StreamListener
---@operator call: yue.Stream?
local StreamListener = {}

---The address, with the port that the system chose for port 0.
---@return string
function StreamListener:addr() end

---The number of connections whose function runs.
---@return integer
function StreamListener:connections() end

---Waits for the next client; nil when the listener is closed. Raises a TimeoutError after `timeout` seconds.
---@param timeout? number
---@return yue.Stream?
function StreamListener:accept(timeout) end

---Stops listening. Connections that were accepted stay open.
function StreamListener:close() end

---@class yue.Datagrams
local Datagrams = {}

---Sends a datagram of up to 65507 bytes to an address, or without one to the address that `connect` got.
---@param text string
---@param addr? string
function Datagrams:send(text, addr) end

---Waits for the next datagram. Raises a TimeoutError after `seconds`.
---@param seconds? number
---@return string text
---@return string from
function Datagrams:receive(seconds) end

---Sets the peer: `send` needs no address, and datagrams of others are dropped.
---@param addr string
function Datagrams:connect(addr) end

---The address, with the port that the system chose for port 0.
---@return string
function Datagrams:addr() end

---Closes the socket. Fibers that wait for a datagram get an error.
function Datagrams:close() end

return yue
