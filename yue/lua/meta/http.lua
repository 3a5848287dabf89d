---@meta yue.http
-- LuaCATS stubs of `yue`, continued: the HTTP client. They are never run. docs/src/lua-api.md explains.

---@class yue
local yue = {}

-- -- The HTTP client -------------------------------------------------------------------------------------------------

yue.http = yue.http or {}

---The options of a request.
---@class yue.HttpRequestOptions
---@field headers? table<string, string|number|string[]|false> A list is several headers; false removes one.
---@field query? string|table<string, any> Appended to the URL. A list repeats its key.
---@field body? string|table|fun(): string? A text; a table, sent as JSON; a function that returns pieces, then nil.
---@field json? any The body, sent as JSON.
---@field form? table<string, any> The body, as fields of a form.
---@field timeout? number|false Seconds for the request, by default 30; with `stream` up to the head, and for each read.
---@field body_max? integer The most bytes of the answer's body, 16 MiB by default.
---@field redirects? integer The most redirects that are followed, 10 by default; 0 returns them.
---@field check? boolean Raise an error for the statuses from 400 on.
---@field stream? boolean Return as soon as the head is there. The body is read from the response.
---@field socket? string The path of a Unix socket to connect to.
---@field cert? string A PEM file, or its text, for servers that demand certificates.
---@field key? string The key of `cert`.
---@field ca? string The authorities to trust, by default the system's.
---@field server_name? string The name in the server's certificate, by default the URL's host.
---@field insecure? boolean Accept every certificate.
---@field keepalive? number|false Seconds after which a lost peer is noticed, 50 by default.
---@field handshake_timeout? number Seconds for the TLS handshake.

---A request as a table: its options, and these.
---@class yue.HttpRequestTable: yue.HttpRequestOptions
---@field url string
---@field method? string `GET` by default.

---The options of a client: those of requests, and these.
---@class yue.HttpClientOptions: yue.HttpRequestOptions
---@field base? string The URL before paths.
---@field idle_max? integer The most idle connections, 64 by default.
---@field idle_time? number Seconds after which an idle connection is closed, 60 by default.

---@class yue.HttpResponse
---@field status integer
---@field reason string The text after the status.
---@field headers table<string, string|string[]> Found by names in any case. `set-cookie` is a list.
---@field body? string The body; nil with `stream`.
---@field url string The URL that answered, after redirects.
---@field version string `1.1` or `1.0`.
local HttpResponse = {}

---Whether the status is 200 to 299.
---@return boolean
function HttpResponse:ok() end

---The value of the JSON in the body.
---@return any
function HttpResponse:json() end

---The next bytes of the body, as they come; with `count` so many, or fewer at the end; with `'*a'` all. Nil at the end.
---@param count? integer|'*a'
---@return string?
function HttpResponse:read(count) end

---Iterates over the body, as it comes.
---@return fun(): string?
function HttpResponse:chunks() end

---The next line of the body, without its end; nil at the end.
---@return string?
function HttpResponse:line() end

---Iterates over the lines of the body.
---@return fun(): string?
function HttpResponse:lines() end

---Closes the connection, unless the answer was read whole. Nothing more can be read.
function HttpResponse:close() end

---@param url string
---@param options? yue.HttpRequestOptions
---@return yue.HttpResponse
function yue.http.get(url, options) end

---@param url string
---@param options? yue.HttpRequestOptions
---@return yue.HttpResponse
function yue.http.head(url, options) end

---@param url string
---@param options? yue.HttpRequestOptions
---@return yue.HttpResponse
function yue.http.delete(url, options) end

---@param url string
---@param body? string|table|fun(): string? See `yue.HttpRequestOptions`.
---@param options? yue.HttpRequestOptions
---@return yue.HttpResponse
function yue.http.post(url, body, options) end

---@param url string
---@param body? string|table|fun(): string?
---@param options? yue.HttpRequestOptions
---@return yue.HttpResponse
function yue.http.put(url, body, options) end

---@param url string
---@param body? string|table|fun(): string?
---@param options? yue.HttpRequestOptions
---@return yue.HttpResponse
function yue.http.patch(url, body, options) end

---Sends the request that the table describes.
---@param request yue.HttpRequestTable
---@return yue.HttpResponse
function yue.http.request(request) end

---A client with connections and default options of its own.
---@param options? yue.HttpClientOptions
---@return yue.HttpClient
function yue.http.client(options) end

---@class yue.HttpClient
local HttpClient = {}

---@param url string A URL, or a path below `base`.
---@param options? yue.HttpRequestOptions
---@return yue.HttpResponse
function HttpClient:get(url, options) end

---@param url string
---@param options? yue.HttpRequestOptions
---@return yue.HttpResponse
function HttpClient:head(url, options) end

---@param url string
---@param options? yue.HttpRequestOptions
---@return yue.HttpResponse
function HttpClient:delete(url, options) end

---@param url string
---@param body? string|table|fun(): string?
---@param options? yue.HttpRequestOptions
---@return yue.HttpResponse
function HttpClient:post(url, body, options) end

---@param url string
---@param body? string|table|fun(): string?
---@param options? yue.HttpRequestOptions
---@return yue.HttpResponse
function HttpClient:put(url, body, options) end

---@param url string
---@param body? string|table|fun(): string?
---@param options? yue.HttpRequestOptions
---@return yue.HttpResponse
function HttpClient:patch(url, body, options) end

---Sends the request that the table describes.
---@param request yue.HttpRequestTable
---@return yue.HttpResponse
function HttpClient:request(request) end

---The number of idle connections.
---@return integer
function HttpClient:idle() end

---Closes the idle connections, and refuses further requests. Those that run end as they would have.
function HttpClient:close() end

return yue
