-- A message over `message_max` is `MessageTooLargeError`, of arguments and of results; the connection stays.
local check = require 'check'
return {
  needs = { 'large' },
  logs = { 'the link to', 'the handler of make failed' },
  server = function()
    return {
      size = function(x) return #x end,
      make = function(bytes) return ('y'):rep(bytes) end,
    }, { message_max = 100000 }
  end,
  client = function(endpoint)
    local c = endpoint.open { message_max = 100000 }
    check.equal(c.size(('x'):rep(99000)), 99000)
    local e = check.raises('MessageTooLargeError', nil, c.size, ('x'):rep(100000))
    check.equal(e.retryable, false)
    check.equal(#c.make(99000), 99000)
    check.raises('MessageTooLargeError', nil, c.make, 100000)
    check.raises('MessageTooLargeError', nil, function() c.async_size(('x'):rep(100000)):get() end)
    check.raises('MessageTooLargeError', nil, c.notify_size, ('x'):rep(100000))
    check.equal(c.size 'x', 1)
    check.equal(yue.conn(c):stats().links, 1)
    -- By default 4 MiB. A peer that allows less than this side ends the link, and the next call has a new one.
    c = endpoint.open { timeout = 60 }
    check.raises('MessageTooLargeError', nil, c.size, ('x'):rep(4 * 2 ^ 20))
    check.raises('MessageTooLargeError', '100000', c.size, ('x'):rep(200000))
    check.equal(c.size 'x', 1)
  end,
}
