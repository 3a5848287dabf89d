-- What the tests talk to. Serves at yue.args[1]; `key=value` arguments become options of the listener.
local yue = require 'yue'

local noted = {}
local options = {}
for _, name in ipairs { 'message_max', 'nesting_max', 'in_flight_max', 'output_high' } do
  options[name] = tonumber(yue.args[name])
end

for _, name in ipairs { 'cert', 'key' } do options[name] = yue.args[name] end
-- The token that calls by HTTP must show; and WebSocket on the same port.
if yue.args.http then
  local bearer = 'Bearer ' .. yue.args.http
  options.ws, options.http = true, { rpc = function(request) return request.headers.authorization == bearer end }
end

local listener = yue.listen(yue.args[1], options, {
  hello = function(name) return 'hello ' .. name end,
  math = { add = function(a, b) return a + b end },
  fail = function() error('this went wrong on the server') end,
  echo = function(...) return ... end,
  bytes = function(count) return ('x'):rep(count) end,
  note = function(text) noted[#noted + 1] = text end,
  noted = function() return noted end,
  _secret = function() return 'a secret' end,
  hidden = { _secret = function() return 'a secret' end },
  text = 'not a function',
  -- Clients that take every server for an editor ask this first: a channel, and what the editor has.
  nvim_get_api_info = function()
    return { 1, yue.map { version = yue.map { major = 0 }, functions = {}, types = yue.map {} } }
  end,

  -- The caller is called back, in the middle of its call.
  ask_back = function(a, b) return 'the client says ' .. tostring(yue.peer().procs.client_add(a, b)) end,
})

io.stdout:write('serving at ' .. listener:addr() .. '\n')
io.stdout:flush()
