-- What cannot be sent is an error of that call, with the path to the value; the connection stays.
local check = require 'check'
return {
  server = function() return { f = function() return 'f' end } end,
  client = function(endpoint)
    local c = endpoint.open()
    local cyclic = { {} }
    cyclic[1].back = cyclic
    check.raises('ArgumentError', 'args[1]', c.f, coroutine.create(print))
    check.raises('ArgumentError', 'args[2].a[3]', c.f, 1, { a = { 1, 2, coroutine.create(print) } })
    check.raises('ArgumentError', nil, c.f, cyclic)
    check.raises('ArgumentError', nil, c.f, c)
    check.raises('ArgumentError', nil, c.f, yue.conn(c))
    check.raises('ArgumentError', nil, function() return c.async_f(cyclic):get() end)
    check.equal(c.f(), 'f')
    check.equal(yue.conn(c):stats().links, 1)
  end,
}
