-- Opens of one address share a connection, unless options or symbols differ, or `no_cache` is set.
local check = require 'check'
return {
  needs = { 'connection' },
  server = function()
    local n = 0
    return {
      number = function()
        local peer = yue.peer()
        if not peer.number then n = n + 1 peer.number = {} end
        return tostring(peer.number)
      end,
    }
  end,
  client = function(endpoint)
    local shared = { no_cache = false }
    local a, b = endpoint.open(shared), endpoint.open(shared)
    check.that(a == b)
    check.equal(a.number(), b.number())
    local limited = { no_cache = false, timeout = 60 }
    check.that(endpoint.open(limited) ~= a and endpoint.open(limited) == endpoint.open(limited))
    check.that(endpoint.open { no_cache = true } ~= a)
    check.that(endpoint.open(nil, {}) ~= endpoint.open(nil, {}))
    yue.conn(a):close()
    check.that(endpoint.open(shared) ~= a)
    check.equal(type(endpoint.open(shared).number()), 'string')
  end,
}
