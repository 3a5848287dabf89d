-- The list of behaviours: sections of the book's table, and the scripts of each, in the table's order.
--
-- A script begins with a comment, the behaviour as the book's table says it, and returns a table:
--
--   needs     features of the transport that it needs (`features.lua`)
--   logs      texts of which each entry of the log that it causes has one
--   server    function(server): returns the symbols of the server, and options; runs where the server runs
--   client    function(endpoint): checks; `endpoint` is in `endpoint.lua`
--
-- The server may be in another loop or process: the client learns about it by calls alone.
local folder = (debug.getinfo(1, 'S').source:match '^@(.*/)' or '') .. '..'
package.path = ('%s/lib/?.lua;%s/../lua/lib/?.lua;%s'):format(folder, folder, package.path)

local suite = { folder = folder }

suite.sections = {
  { 'Calls', 'answers', 'results', 'values', 'errors', 'missing', 'call_backs', 'many_fibers', 'order', 'notifications',
    'futures', 'namespace', 'big_values', 'unsendable', 'peers' },
  { 'Time limits and cancellation', 'timeouts', 'deadlines', 'runs_to_its_end', 'never_starts', 'cancels' },
  { 'Functions as values', 'functions', 'functions_released', 'functions_end' },
  { 'Accepting and refusing', 'accept', 'refusal', 'refused_then_granted', 'handshake_timeout', 'legacy' },
  { 'The end of a connection, and the next one', 'close_reasons', 'reconnect', 'lost_calls', 'half_close',
    'written_before_close', 'server_returns', 'nobody_listens', 'one_listener', 'close_callbacks', 'keepalive' },
  { 'Limits', 'message_max', 'nesting_max', 'in_flight_max', 'references_max', 'rate', 'held_max', 'queue_full',
    'full_close', 'full_drop', 'connections_max', 'latest', 'flood' },
  { 'Many connections', 'many_connections', 'shared_connections', 'groups' },
  { 'Inspection', 'describe', 'stats' },
}

--- The text of the comment that a file begins with.
local function first_comment(path)
  local lines = {}
  for line in io.lines(path) do
    local text = line:match '^%-%- (.*)$'
    if not text then break end
    lines[#lines + 1] = text
  end
  return table.concat(lines, ' ')
end

--- Loads a behaviour by its name.
function suite.load(name)
  local path = ('%s/%s.lua'):format(folder, name)
  local behaviour = assert(loadfile(path))()
  behaviour.title = first_comment(path)
  assert(behaviour.title ~= '', path .. ' does not begin with a comment')
  local features = require 'features'
  for _, need in ipairs(behaviour.needs or {}) do
    assert(features[need], ('%s.lua needs %s, which features.lua does not have'):format(name, need))
  end
  behaviour.name = name
  return behaviour
end

--- The reason why a behaviour does not hold over a transport; nil if it does.
function suite.reason_against(behaviour, transport)
  for _, need in ipairs(behaviour.needs or {}) do
    local reason = transport.lacks and transport.lacks[need]
    if reason then return reason end
  end
end

return suite
