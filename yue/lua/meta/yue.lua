---@meta yue
-- What editors show of `yue`: LuaCATS stubs of the whole API. They are never run. Point the Lua language server at this
-- folder (`"workspace.library": ["…/yue/lua/meta"]`), and it completes and checks. docs/src/lua-api.md explains.

---@class yue
local yue = {}

---The version of yue.
---@type string
yue.version = ''

---What runs this: the program, or one of its worker threads.
---@type 'main'|'thread'
yue.mode = 'main'

---@class yue.Feature
---@field driver string The I/O driver of this loop.
---@field timer string
---@field os string
---@field arch string
---@field jit boolean Whether the compiler is on.

---@type yue.Feature
yue.feature = {}

---The command line: `key=value` by key, the rest by position; `[0]` is the script. All are strings.
---@type table<string|integer, string>
yue.args = {}

---@class yue.Config
---@field timeout number Seconds that a call waits if nothing else says how long. 5 by default.

---@type yue.Config
yue.config = {}

---The numbers of signals: `yue.const.SIGINT` …
---@type table<string, integer>
yue.const = {}

-- -- Serving and calling -------------------------------------------------------------------------------------------

---What may be called: functions and nested tables of them; the name of a file, whose globals they are; or a list.
---@alias yue.Symbols table|string|(table|string)[]

---@class yue.Options
---@field timeout? number Seconds that a call waits for its answer.
---@field no_cache? boolean open: a connection of one's own.
---@field retry? boolean open: go on trying even if the very first attempt is refused.
---@field reconnect? boolean open: connect again when a link is lost. True by default.
---@field legacy? boolean open: plain msgpack-rpc, no hello.
---@field cancel? boolean Callers may stop handlers that have started. By default those run to their end.
---@field traceback? boolean Errors of handlers take their tracebacks along. By default over unix:// and thread:// only.
---@field message_max? integer Bytes of a message, either way.
---@field nesting_max? integer Arrays and maps inside of each other in one value.
---@field decoded_max? integer Bytes of memory that the values of a received message may take; 8 times `message_max`.
---@field in_flight_max? integer Requests that wait or run; and, separately, calls that wait for their answers.
---@field held_max? integer Bytes of calls that are held until the connection is up and granted.
---@field output_high? integer Bytes waiting to be sent, above which calls and answers wait.
---@field output_max? integer Bytes waiting to be sent, above which nothing is queued that does not wait.
---@field when_full? 'close'|'drop' What a notification above `output_max` does: it ends the connection, or is left out.
---@field rate? { calls: number, burst?: integer } How often the other side may call: a second, and at once.
---@field references_max? integer Functions of ours that the other side may hold.
---@field connections_max? integer listen: connections at a time.
---@field handlers_max? integer listen: requests that wait or run on all connections.
---@field memory_max? integer listen: bytes of input, requests and output on all connections.
---@field message_time? number Seconds in which a message that has begun must go on.
---@field keepalive? number|false tcp: seconds after which a peer that is gone without a word is noticed. 50 by default.
---@field handshake_timeout? number Seconds that greeting and `__accept` may take.

---The procedures of another side: every name, at any depth, can be called. Prefixes of the last name: `async_` (a
---future at once), `timed_` (seconds come first), `notify_` (expects nothing; returns whether it was taken);
---`c['=async_f']` means the name itself. `async_` and `notify_` never wait.
---@class yue.Procs
---@field [string] yue.Procs
---@operator call(...): any

---Serves `symbols` at `addr`: `tcp://host:port`, `unix:///path`.
---@overload fun(addr: string, symbols?: yue.Symbols): yue.Listener
---@param addr string
---@param options yue.Options?
---@param symbols yue.Symbols?
---@return yue.Listener
function yue.listen(addr, options, symbols) end

yue.server = yue.listen

---The procedures of the other side at `addr`. Returns at once; the first call connects.
---@overload fun(addr: string, symbols?: yue.Symbols): yue.Procs
---@param addr string
---@param options yue.Options?
---@param symbols yue.Symbols? What the other side may call here.
---@return yue.Procs
function yue.open(addr, options, symbols) end

---As `open`, but the connection object.
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

---Seconds that the caller of the running handler still waits, 0 if its time is over; nil if it set no limit, and
---outside of handlers.
---@return number?
function yue.deadline() end

---Marks a table so that it travels as a map, even if it is empty or a sequence. Returns it.
---@generic T: table
---@param t T
---@return T
function yue.map(t) end

---Marks a table so that it travels as an array, even if places of it are nil. Returns it.
---@generic T: table
---@param t T
---@return T
function yue.array(t) end

---Travels as nil, for places of tables. The null of lua-cjson is the same value.
---@type lightuserdata
yue.null = newproxy()

---@class yue.Emitter
---@field closed boolean?
local Emitter = {}

---Calls `fn(...)`, in a fiber of its own, with each event of that name, or of each in the list. Returns `fn`.
---@param events string|string[]
---@param fn function
---@return function
function Emitter:bind(events, fn) end

---Undoes `bind`; without `fn` for all functions.
---@param events string|string[]
---@param fn function?
function Emitter:unbind(events, fn) end

---Waits for the event: `true, payload…`; false when the time (seconds) is over or the emitter was closed.
---@param event string
---@param timeout number?
---@return boolean, any ...
function Emitter:wait(event, timeout) end

---Tells all that have bound the event or wait for it.
---@param event string
---@param ... any
function Emitter:emit(event, ...) end

---No more events. To close twice does no harm.
function Emitter:close() end

---An emitter of the program's own.
---@return yue.Emitter
function yue.emitter() end

---Events: `open`, `accept`, `close` (with the reason), `timeout`, `full` (a notification was left out).
---@class yue.Connection: yue.Emitter
---@field procs yue.Procs
---@field namespace table? What the other side may call.
local Connection = {}

---@return string # The other side's address.
function Connection:addr() end

---@return boolean # Whether calls go through at once.
function Connection:connected() end

---@return table<string, any> # What it has done; `queued_bytes`, that wait to be sent; `methods` of an opened one, as in `Listener:stats`.
function Connection:stats() end

---Notifies the other side of the latest state of something: calls its procedure `name` without an answer. While it does
---not keep up, the message waits, and a newer one with the same key takes its place.
---@param key string|number
---@param name string The name as it is, without prefixes.
---@param ... any
---@return boolean # Whether it was taken.
function Connection:latest(key, name, ...) end

---Adds to what the other side may call.
---@param symbols yue.Symbols
function Connection:import(symbols) end

---Emits `accept` (a connection was granted) and `close` (such a one is over), with the connection.
---@class yue.Listener: yue.Emitter
---@field namespace table Reads and changes what may be called.
local Listener = {}

---@return string # Where it listens; a port 0 is resolved.
function Listener:addr() end

---@return yue.Connection[] # Those that it accepted and that are open.
function Listener:connections() end

---Adds to what may be called.
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
---@field methods table<string, yue.MethodStats>

---@return yue.ListenerStats # What its connections use now, and what each method has done.
function Listener:stats() end

-- -- Fibers, futures, time -----------------------------------------------------------------------------------------

---@class yue.Future
local Future = {}

---Calls `fn(ok, ...)` when it is done, in a fiber of its own. Returns the future.
---@param fn fun(ok: boolean, ...)
---@return self
function Future:on(fn) end

---Waits: `true, results…` or `false, error`.
---@return boolean, any ...
function Future:sync() end

---Waits: the results, or raises the error.
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

---Starts `fn(...)` in a fiber of its own.
---@param fn function
---@param ... any
---@return yue.Fiber
function yue.spawn(fn, ...) end

---Waits for all: the first result of each. Raises the error of the first that fails, at once.
---@param futures yue.Future[]
---@return any[]
function yue.all(futures) end

---Waits for the first that is done: its place and its results; or raises its error.
---@param futures yue.Future[]
---@return integer, any ...
function yue.any(futures) end

---Waits so many seconds; `sleep(0)` lets the others run once.
---@param seconds number
function yue.sleep(seconds) end

---Lets each fiber that is ready run once.
function yue.yield() end

---Runs `fn(...)`; what it waits for raises a TimeoutError once the time is over.
---@param seconds number
---@param fn function
---@param ... any
---@return any ...
function yue.timeout(seconds, fn, ...) end

---Runs `fn(...)` untouched by cancels and deadlines.
---@param fn function
---@param ... any
---@return any ...
function yue.shield(fn, ...) end

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

---Emits `exit` when it is over, with what `pcall(t.join, t)` returns.
---@class yue.Thread: yue.Emitter
---@field name string
---@field procs yue.Procs
local Thread = {}

---Waits for its end: what it gave to `exit`, or raises what ended it.
---@return any
function Thread:join() end

---@class yue.CurrentThread
---@field name string
---@field index integer Which of the `-c N` loops this is, from 1.
local Current = {}

---Adds to what others may call (in worker threads).
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
---@field bt string? The traceback, the other side's part included.
---@field value any What was raised, if that was no text.
---@field retryable boolean? Whether the call may be made again.
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

---The result of the function, or of `catch` if it raised; `finally` runs in any case.
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

---Runs `code(client)` until it returns a true value, raises, or `client:exit` is called; closes what it opened.
---@param code string|fun(client: yue.Client): any
---@return any ok, any result
function yue.client(code) end

---Ends the program gracefully.
---@param options { msg?: any, shutdown_after?: number }?
function yue.die(options) end

---@class yue.Log
yue.log = {}

---@param ... any
function yue.log.debug(...) end

---@param ... any
function yue.log.info(...) end

---@param ... any
function yue.log.warn(...) end

---@param ... any
function yue.log.error(...) end

---Prints values, tables with all that is in them.
---@param ... any
function yue.pp(...) end

return yue
