---@meta yue
-- LuaCATS stubs of the whole API of `yue`, for editors. They are never run. Point the Lua language server at this
-- folder (`"workspace.library": ["…/yue/lua/meta"]`), and it completes and checks. docs/src/lua-api.md explains.

---@class yue
local yue = {}

---The version of yue.
---@type string
yue.version = ''

---The kind of thread that runs this code: the program's, or a worker's.
---@type 'main'|'thread'
yue.mode = 'main'

---@class yue.Feature
---@field driver string The I/O driver of this loop.
---@field timer string
---@field os string
---@field arch string
---@field jit boolean Whether the compiler is on.
---@field development boolean Whether `yue dev` runs the program.

---@type yue.Feature
yue.feature = {}

---The command line: `key=value` by key, the rest by position; `[0]` is the script. All are strings.
---@type table<string|integer, string>
yue.args = {}

---@class yue.Config
---@field timeout number Default seconds that a call waits. 5 by default.

---@type yue.Config
yue.config = {}

---The numbers of signals: `yue.const.SIGINT` …
---@type table<string, integer>
yue.const = {}

-- -- Serving and calling -------------------------------------------------------------------------------------------

---Functions that may be called: functions and nested tables of them; the name of a file, whose globals they are; or a
---list.
---@alias yue.Symbols table|string|(table|string)[]

---A request for a call by HTTP, as `http.rpc` sees it.
---@class yue.HttpRequest
---@field name string The name of the function, perhaps dotted.
---@field method string `POST`.
---@field path string The path and the query.
---@field headers table<string, string> By their names in lower case; several of one name are joined by commas.
---@field address string The address of the client.
---@field peer_name? string The name in the client's certificate, if the listener demands one.

---@class yue.HttpOptions
---@field rpc? fun(request: yue.HttpRequest): boolean? Whether the request may call. Without it none may.
---@field origins? string[] The origins whose pages may call, and the names of this server.

---@class yue.Options
---@field timeout? number Seconds that a call waits for its answer.
---@field no_cache? boolean open: a separate connection, not a shared one.
---@field retry? boolean open: keep trying even if the very first attempt is refused.
---@field reconnect? boolean open: reconnect when a link is lost. True by default.
---@field legacy? boolean open: plain msgpack-rpc, no hello.
---@field cancel? boolean Callers may stop handlers that have started. By default those run to their end.
---@field describe? boolean Whether peers may list the functions of this side (true).
---@field chunks? boolean Whether answers above 64 KiB travel in chunks, which other messages overtake (true).
---@field traceback? boolean Errors of handlers carry their tracebacks. By default over unix:// and thread:// only.
---@field message_max? integer Bytes of a message, in either direction.
---@field nesting_max? integer Nesting of arrays and maps in one value.
---@field decoded_max? integer Bytes of memory that the values of a received message may take; 8 times `message_max`.
---@field in_flight_max? integer Requests that wait or run; and, separately, calls that wait for their answers.
---@field held_max? integer Bytes of calls that are held until the connection is up and granted.
---@field output_high? integer Bytes waiting to be sent, above which calls and answers wait.
---@field output_max? integer Bytes waiting to be sent, above which messages whose sender does not wait are refused.
---@field when_full? 'close'|'drop' Effect of a notification above `output_max`: the connection ends, or it is dropped.
---@field rate? { calls: number, burst?: integer } The peer's limit of calls: per second, and at once.
---@field references_max? integer Functions of this side that the peer may hold.
---@field connections_max? integer listen: connections at a time.
---@field handlers_max? integer listen: requests that wait or run on all connections.
---@field memory_max? integer listen: bytes of input, requests and output on all connections.
---@field message_time? number Seconds in which a message that has begun must grow.
---@field keepalive? number|false tcp, tls, ws: seconds until a peer that vanished silently is noticed. 50 by default.
---@field handshake_timeout? number Seconds for greeting and `__accept`; and, before, for the link's own handshake.
---@field cert? string tls: the certificate, followed by its signers: a PEM file, or its text.
---@field key? string tls: the private key of `cert`: a PEM file, or its text.
---@field ca? string tls, open: the authorities that may have signed the server's certificate. By default the system's.
---@field client_ca? string tls, listen: only clients with a certificate that one of these has signed are served.
---@field server_name? string tls, open: the name in the server's certificate. By default the address's host.
---@field insecure? boolean tls, open: accept every server, whatever its certificate.
---@field peer_idle? number listen, udp, mcast: seconds after which a silent peer is forgotten. 60 by default.
---@field interface? string mcast: the network interface, by its name or IPv4 address. By default the system chooses.
---@field ttl? integer mcast: the number of networks that datagrams to the group may cross. 1 by default.
---@field loopback? boolean mcast: members on this machine get them, too (true).
---@field origins? string[] listen, ws: the origins whose pages may connect; by default those of the same host.
---@field ws? boolean listen, tcp, tls, unix: clients may connect to this port by WebSocket, too.
---@field http? yue.HttpOptions listen, tcp, tls, unix: clients may call on this port by HTTP, too.

---The procedures of a peer: every name, at any depth, can be called. Prefixes of the last name: `async_` (returns a
---future at once), `timed_` (seconds come first), `notify_` (expects no answer; returns whether it was queued);
---`c['=async_f']` means the name itself. `async_` and `notify_` never wait. `mcast_` calls all members of a multicast
---group, and returns a `yue.Answers`.
---@class yue.Procs
---@field [string] yue.Procs
---@operator call(...): any

---Serves `symbols` at `addr`: `tcp://host:port`, `tls://host:port`, `unix:///path`,
---`ws://host:port/path`, `wss://host:port/path`, `stdio://`.
---@overload fun(addr: string, symbols?: yue.Symbols): yue.Listener
---@param addr string
---@param options yue.Options?
---@param symbols yue.Symbols?
---@return yue.Listener
function yue.listen(addr, options, symbols) end

yue.server = yue.listen

---The procedures of the peer at `addr`. Returns at once; the first call connects.
---@overload fun(addr: string, symbols?: yue.Symbols): yue.Procs
---@param addr string
---@param options yue.Options?
---@param symbols yue.Symbols? The functions that the peer may call here.
---@return yue.Procs
function yue.open(addr, options, symbols) end

---Like `open`, but returns the connection object.
---@overload fun(addr: string, symbols?: yue.Symbols): yue.Connection
---@param addr string
---@param options yue.Options?
---@param symbols yue.Symbols?
---@return yue.Connection
function yue.socket(addr, options, symbols) end

---The connection behind procedures that `open` returned.
---@param procs yue.Procs
---@return yue.Connection
function yue.conn(procs) end

---The connection that the running handler was called through; nil elsewhere.
---@return yue.Connection?
function yue.peer() end

---The remaining seconds of the running handler's caller, 0 if its time has passed; nil if it set no limit, and outside
---handlers.
---@return number?
function yue.deadline() end

---Traces and call chains: ids by which the calls of one piece of work are found, in all processes.
yue.trace = {}

---Runs `fn(...)` in a trace: the calls made in it, and by the handlers of those calls, carry it. A `traceparent` is the
---value of an HTTP header of that name. Without one, or with one that is malformed, a new trace begins. Returns what
---`fn` returns.
---@overload fun(fn: function, ...): any
---@param traceparent string?
---@param fn function
---@param ... any Its arguments.
---@return any ...
function yue.trace.start(traceparent, fn, ...) end

---The trace of the running fiber, in the form of the HTTP header `traceparent`; nil if nobody has begun one.
---@return string?
function yue.trace.current() end

---The number of the running handler's call chain, as text: the same for all handlers that call each other for one
---request. nil before the first call that a handler of the chain makes, and outside handlers.
---@return string?
function yue.trace.chain() end

---Marks a table so that it travels as a map, even if it is empty or a sequence. Returns it.
---@generic T: table
---@param t T
---@return T
function yue.map(t) end

---Marks a table so that it travels as an array, even if elements of it are nil. Returns it.
---@generic T: table
---@param t T
---@return T
function yue.array(t) end

---Travels as nil, for elements of tables. The null of lua-cjson is the same value.
---@type lightuserdata
yue.null = newproxy()

---@class yue.Emitter
---@field closed boolean?
local Emitter = {}

---Calls `fn(...)`, in a new fiber, with each event of that name, or of each in the list. Returns `fn`.
---@param events string|string[]
---@param fn function
---@return function
function Emitter:bind(events, fn) end

---Undoes `bind`; without `fn` for all functions.
---@param events string|string[]
---@param fn function?
function Emitter:unbind(events, fn) end

---Waits for the event: `true, payload…`; false after `timeout` (seconds) or when the emitter was closed.
---@param event string
---@param timeout number?
---@return boolean, any ...
function Emitter:wait(event, timeout) end

---Notifies everyone who bound the event or waits for it.
---@param event string
---@param ... any
function Emitter:emit(event, ...) end

---Closes the emitter. A second close does no harm.
function Emitter:close() end

---Creates an emitter for the program.
---@return yue.Emitter
function yue.emitter() end

---Events: `open`, `accept`, `close` (with the reason), `timeout`, `full` (a notification was dropped).
---@class yue.Connection: yue.Emitter
---@field node? table The node behind the connection, of those that `yue.nalloc` returns.
---@field procs yue.Procs
---@field namespace table? The functions that the peer may call.
local Connection = {}

---@return string # The peer's address.
function Connection:addr() end

---@return string? # The name in the peer's TLS certificate, which this side has verified; nil if it showed none.
function Connection:peer_name() end

---@return boolean # Whether calls go out at once.
function Connection:connected() end

---@return table<string, any> # Counts; `queued_bytes` that wait; `methods` of an opened one, as in `Listener:stats`.
function Connection:stats() end

---@class yue.Description
---@field name string
---@field params string[]? The names of the parameters; nil if they are not known (functions of C and of Rust).
---@field vararg boolean? Whether the function takes further arguments.
---@field doc string? The comment above the function.

---@class yue.TypeDescription
---@field name string
---@field doc string The comment that declares the type, from its `@class` or `@alias` on.

---Asks the peer for the functions that this side may call, sorted by name.
---@return yue.Description[]
---@return boolean more Whether the peer has more than it lists.
---@return yue.TypeDescription[] types The types that the comments mention.
function Connection:describe() end

---Notifies the peer of the latest state of something: calls its procedure `name` without an answer. While the peer does
---not keep up, the message waits, and a newer one with the same key replaces it.
---@param key string|number
---@param name string The literal name, without prefixes.
---@param ... any
---@return boolean # Whether it was queued.
function Connection:latest(key, name, ...) end

---Adds functions that the peer may call.
---@param symbols yue.Symbols
function Connection:import(symbols) end

---Emits `accept` (a connection was granted) and `close` (a granted connection has ended), with the connection.
---@class yue.Listener: yue.Emitter
---@field namespace table The functions that may be called, to read and to change.
local Listener = {}

---@return string # Its address; a port 0 is resolved.
function Listener:addr() end

---@return yue.Connection[] # The open ones that it accepted.
function Listener:connections() end

---Reads the files of its TLS certificate again; raises if one cannot be used, and keeps the old certificate. It also
---does so by itself, when a client connects and the files have changed.
function Listener:reload() end

---Adds functions that may be called.
---@param symbols yue.Symbols
function Listener:import(symbols) end

---@class yue.MethodStats
---@field calls integer
---@field errors integer
---@field time number Seconds, waits included.

---@class yue.ListenerStats
---@field connections integer
---@field requests_in_flight integer
---@field memory integer Bytes.
---@field handshakes integer Handshakes of TLS and WebSocket under way.
---@field handshakes_failed integer Handshakes that failed.
---@field datagrams_dropped integer Datagrams of strangers, or malformed ones, that were dropped.
---@field peers_evicted integer Peers of datagrams that made room for others.
---@field methods table<string, yue.MethodStats>

---@return yue.ListenerStats # The usage of its connections, and the counts of each method.
function Listener:stats() end

---The answers of a multicast group's members, as they arrive: an iterator (`for sender, ok, … in c.mcast_f() do`), and
---an emitter of `answer` (with the same values) and `done`. It ends with the time of the call.
---@class yue.Answers: yue.Emitter
---@operator call(): string?, boolean, any
local Answers = {}

---Waits for the end: `true` and a list of `{ sender, ok, … }`, or `false` and the error if the call could not be sent.
---@return boolean ok
---@return table
function Answers:sync() end

---Like `sync`, but returns the list alone, or raises.
---@return table[]
function Answers:get() end

---@return boolean # Whether no more answers are taken.
function Answers:done() end

---Takes no more answers.
function Answers:cancel() end

---A set of connections: `g.notify_f(…)` and `g.f(…)` reach all members. `g['=join'](…)` is a procedure that is named
---like a method.
---@class yue.Group
---@field [string] yue.Procs A notification returns the number of members that took it; a call returns a list of
---`{ conn, ok, results… }`.
---@operator len: integer
local Group = {}

---Adds a connection. Members leave by themselves when their connection has ended.
---@param conn yue.Connection
---@param data any Of a named group: data that can be sent, since other loops get a copy.
---@return boolean # Whether it is a member now: not if it has ended.
function Group:join(conn, data) end

---@param conn yue.Connection
---@return boolean # Whether it was a member.
function Group:leave(conn) end

---Iterates over the members of all loops, in the order in which they joined. One of another loop has `procs`, `addr()`
---and `close(reason)` only.
---@return fun(): yue.Connection?, any
function Group:members() end

---Calls the procedure of that name of the only member, on whichever loop it is.
---@param name string May be dotted, and have prefixes.
---@param ... any
---@return any ...
function Group:ask(name, ...) end

---A set of connections. With a name it is one set for all loops of the process; without, a new set of connections of
---this loop.
---@param name string?
---@return yue.Group
function yue.group(name) end

-- -- Fibers, futures, time -----------------------------------------------------------------------------------------

---@class yue.Future
local Future = {}

---Calls `fn(ok, ...)` when it is done, in a new fiber. Returns the future.
---@param fn fun(ok: boolean, ...)
---@return self
function Future:on(fn) end

---Waits: returns `true, results…` or `false, error`.
---@return boolean, any ...
function Future:sync() end

---Waits: returns the results, or raises the error.
---@return any ...
function Future:get() end

---@return boolean
function Future:done() end

---Gives it up. Returns whether it was not done.
---@return boolean
function Future:cancel() end

---A fiber is the future of its own results.
---@class yue.Fiber: yue.Future
---@field name string?
local Fiber = {}

---Starts it with these arguments. Returns it.
---@param ... any
---@return self
function Fiber:run(...) end

---@class yue.FiberApi
---@overload fun(fn: function, name?: string): yue.Fiber
yue.fiber = {}

---The calling fiber.
---@return yue.Fiber
function yue.fiber.current() end

---The fibers that the program has started and that run.
---@return { fiber: yue.Fiber, name: string?, id: number }[]
function yue.fiber.list() end

---The table of the calling fiber. A fiber that it starts begins with a copy.
---@return table
function yue.fiber.storage() end

---Starts `fn(...)` in a new fiber.
---@param fn function
---@param ... any
---@return yue.Fiber
function yue.spawn(fn, ...) end

---Waits for all: returns the first result of each. Raises the error of the first that fails, at once.
---@param futures yue.Future[]
---@return any[]
function yue.all(futures) end

---Waits for the first that is done: returns its index and its results, or raises its error.
---@param futures yue.Future[]
---@return integer, any ...
function yue.any(futures) end

---Waits for `seconds`; `sleep(0)` lets the others run once.
---@param seconds number
function yue.sleep(seconds) end

---Lets each ready fiber run once.
function yue.yield() end

---Runs `fn(...)`; its waits raise a TimeoutError once the time has passed.
---@param seconds number
---@param fn function
---@param ... any
---@return any ...
function yue.timeout(seconds, fn, ...) end

---Runs `fn(...)` shielded from cancels and deadlines.
---@param fn function
---@param ... any
---@return any ...
function yue.shield(fn, ...) end

---Seconds on a clock that never jumps, the same for all threads.
---@return number
function yue.now() end

---Seconds since 1970, with a fraction.
---@return number
function yue.time() end

yue.util = { time = {} }

---Microseconds since 1970.
---@return number
function yue.util.time.now() end

yue.util.time.suspend = yue.sleep

---Emits `tick` after `start` seconds, and then every `interval` seconds; once, without `interval`.
---@param start number
---@param interval number?
---@return yue.Emitter
function yue.timer(start, interval) end

---Emits `signal`, with the number, each time the process gets the signal.
---@param number integer One of `yue.const`.
---@return yue.Emitter
function yue.signal(number) end

-- -- Threads -------------------------------------------------------------------------------------------------------

---Emits `exit` when it has ended, with the values that `pcall(t.join, t)` returns.
---@class yue.Thread: yue.Emitter
---@field name string
---@field procs yue.Procs
local Thread = {}

---Waits for its end: returns the value that it passed to `exit`, or raises its error.
---@return any
function Thread:join() end

---@class yue.CurrentThread
---@field name string
---@field index integer The index of this one of the `-c N` loops, from 1.
local Current = {}

---Adds functions that others may call (in worker threads).
---@param symbols yue.Symbols
function Current:import(symbols) end

---Ends this thread, or the main program; `join` returns the result.
---@param result any
function Current:exit(result) end

---@class yue.ThreadOptions
---@field timeout? number Seconds that its start may take. 3 by default.
---@field cancel? boolean Callers may stop its handlers.

---`yue.thread(name, code [, options] [, symbols])` starts one: `code` is a file or a function without upvalues.
---@class yue.ThreadApi
---@field current yue.CurrentThread
---@overload fun(name: string, code: string|function, options?: yue.ThreadOptions, symbols?: yue.Symbols): yue.Thread
yue.thread = { current = Current }

---@param name string
---@return yue.Thread?
function yue.thread.find(name) end

---@return integer # How many worker threads run.
function yue.thread.count() end

-- -- Errors --------------------------------------------------------------------------------------------------------

---@class yue.Error
---@field type string
---@field code integer
---@field msg string
---@field bt string? The traceback, the peer's part included.
---@field value any The raised value, if it was not a string.
---@field retryable boolean Whether the call can be repeated without the risk that it runs twice.
local Error = {}

---@param class string|yue.ErrorClass
---@return boolean
function Error:is_a(class) end

---@class yue.ErrorClass
---@field type string
---@field code integer
---@field new fun(msg: any, value?: any): yue.Error
---@overload fun(msg: any, value?: any): yue.Error

---The classes of errors, by name.
---@type table<string, yue.ErrorClass>
yue.errors = {}

---Returns the result of the function, or of `catch` if it raised; `finally` always runs.
---@param block { [1]: function, catch?: fun(e: yue.Error): any, finally?: function }
---@return any ...
function yue.try(block) end

-- -- Programs ------------------------------------------------------------------------------------------------------

---@class yue.Client
local Client = {}

---Ends the client; `yue.client` returns `ok, result`.
---@param ok any
---@param result any
function Client:exit(ok, result) end

---Runs `code(client)` until it returns a true value, raises, or `client:exit` is called; closes everything it opened.
---An error in a callback that it bound, or in a fiber that it started and nobody waits for, ends it, too.
---@param code string|fun(client: yue.Client): any
---@return any ok, any result
function yue.client(code) end

---Ends the program gracefully.
---@param options { msg?: any, shutdown_after?: number }?
function yue.die(options) end

---@alias yue.LogLevel 'debug'|'info'|'warn'|'error'|'off'

---@class yue.Logger
---@field debug fun(...: any)
---@field info fun(...: any)
---@field warn fun(...: any)
---@field error fun(...: any)
---@field with fun(fields: table<string, any>): yue.Logger A logger whose entries also have these fields.

---@class yue.Log: yue.Logger
yue.log = {}

---@param ... any
function yue.log.debug(...) end

---@param ... any
function yue.log.info(...) end

---@param ... any
function yue.log.warn(...) end

---@param ... any
function yue.log.error(...) end

---A logger whose entries have these fields.
---@param fields table<string, any>
---@return yue.Logger
function yue.log.with(fields) end

---Returns the minimum level of the process's log; with `name`, sets it and returns the previous one.
---@param name yue.LogLevel?
---@return yue.LogLevel
function yue.log.level(name) end

---Returns the form of the process's log; with `name`, sets it and returns the previous one.
---@param name 'text'|'json'|nil
---@return 'text'|'json'
function yue.log.format(name) end

---Prints values, tables with all their contents.
---@param ... any
function yue.pp(...) end

return yue
