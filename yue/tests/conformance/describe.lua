-- `conn:describe` lists the functions that the peer offers; `describe = false` turns it off.
local check = require 'check'
return {
  needs = { 'connection' },
  server = function()
    local symbols = { nested = {} }
    --- Moves the player.
    ---@param x number
    function symbols.move(x, y, ...) return x, y, ... end
    function symbols.nested.f() end
    function symbols._private() end
    return symbols
  end,
  client = function(endpoint)
    local conn = yue.conn(endpoint.open())
    local list, more = conn:describe()
    check.equal(#list, 2)
    check.equal({ list[1].name, list[2].name, more or false }, { 'move', 'nested.f', false })
    check.equal({ list[1].params, list[1].vararg }, { { 'x', 'y' }, true })
    check.contains(list[1].doc, 'Moves the player.')
    check.that(not (list[1].doc .. tostring(list[1].name)):find '%.lua')
    check.equal(conn.procs.move(1, 2), 1)
  end,
}
