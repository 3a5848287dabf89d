---@meta yue.http_server
-- LuaCATS stubs of `yue`, continued: the HTTP server. They are never run. docs/src/lua-api.md explains.

---@class yue
local yue = {}

yue.http = yue.http or {}

---A request, in its handler.
---@class yue.ServerRequest
---@field method string
---@field path string The path, with its escapes.
---@field params table<string, string> The parameters of the route, without escapes.
---@field rest string|false The part of the path that `*` in the route stands for.
---@field query table<string, string> The query: the first value of each name, without escapes.
---@field queries table<string, string[]> The query: all values of each name.
---@field query_string string? The query as it was sent.
---@field headers table<string, string> Names in lower case. Values of one name have commas between them.
---@field cookies table<string, string>
---@field peer string The address of the client, like `http://127.0.0.1:40000`.
---@field client_name string? The name in the client's certificate, if the server demanded one.
---@field version '1.0'|'1.1'
local ServerRequest = {}

---The value of one header, or nil.
---@param name string
---@return string?
function ServerRequest:header(name) end

---The whole body. Above `body_max` the request is refused with 413.
---@return string
function ServerRequest:body() end

---The value of a body in JSON. Another one is refused with 400.
---@return any
function ServerRequest:json() end

---The fields of a form in the body: the first value of each name; and all values of each name.
---@return table<string, string> first
---@return table<string, string[]> all
function ServerRequest:form() end

---Iterates over the pieces of the body as they arrive, without a limit to its size.
---@return fun(): string?
function ServerRequest:chunks() end

---Begins an answer whose body the handler writes piece by piece.
---@param status integer
---@param headers table<string, string|number|string[]>?
---@return yue.HttpWriter
function ServerRequest:respond(status, headers) end

---The body of an answer, piece by piece.
---@class yue.HttpWriter
local HttpWriter = {}

---Sends a piece, and waits until the client has room for more. Raises when the client is gone.
---@param piece string
function HttpWriter:write(piece) end

---Ends the body. The end of the handler does so, too.
function HttpWriter:close() end

---The options of `yue.http.serve`.
---@class yue.HttpServeOptions
---@field before? fun(req: yue.ServerRequest): any ... Called before the route; a result is the answer.
---@field connections_max? integer
---@field head_max? integer Bytes of a request's head (16 KiB).
---@field headers_max? integer The number of headers (100).
---@field body_max? integer Bytes of a body that is read as a whole (1 MiB).
---@field head_timeout? number Seconds for a head, from its first byte (10).
---@field idle_timeout? number Seconds without a request (60).
---@field body_timeout? number Seconds for each kilobyte of a body (10).
---@field write_timeout? number Seconds for the client to read anything (30).
---@field handshake_timeout? number Seconds for the handshake of TLS (30).
---@field keepalive? number|false
---@field cert? string
---@field key? string
---@field client_ca? string

---An HTTP server.
---@class yue.HttpServer: yue.Emitter
---@field websockets table<string|integer, yue.Listener> The listeners of the routes `WS /path`, by their paths.
local HttpServer = {}

---The address; a port 0 is resolved.
---@return string
function HttpServer:addr() end

---The beginning of its URLs; nil for a Unix socket.
---@return string?
function HttpServer:url() end

---The number of open connections.
---@return integer
function HttpServer:connections() end

---Reads the files of its TLS certificate again.
function HttpServer:reload() end

---Stops listening. Idle connections end now, the others after their request; streams are cut.
function HttpServer:close() end

---Serves HTTP. `routes` is a table of handlers like `['GET /users/:id'] = function(req) … end`, or one function for
---every request.
---@param addr string `tcp://host:port`, `tls://host:port` or `unix:///path`; also `http://` and `https://`.
---@param options yue.HttpServeOptions?
---@param routes table<string, any>|fun(req: yue.ServerRequest): any
---@return yue.HttpServer
---@overload fun(addr: string, routes: table<string, any>|fun(req: yue.ServerRequest): any): yue.HttpServer
function yue.http.serve(addr, options, routes) end

---The options of `yue.http.files`.
---@class yue.HttpFilesOptions
---@field index? string|false The file that stands for a folder (`index.html`).
---@field dotfiles? boolean Also names that begin with a dot (false).
---@field max_age? number Seconds for which a client may keep a file without asking.
---@field types? table<string, string> Types by extension, besides those that are known.

---A handler that serves the files of a folder, for a route like `GET /static/*`.
---@param folder string
---@param options yue.HttpFilesOptions?
---@return fun(req: yue.ServerRequest): any
function yue.http.files(folder, options) end

---Functions that clients may call by WebSocket, for a route `WS /path`.
---@param options yue.Options?
---@param symbols any As of `yue.listen`.
---@return table
---@overload fun(symbols: any): table
function yue.http.websocket(options, symbols) end

return yue
