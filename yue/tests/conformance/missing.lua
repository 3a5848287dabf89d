-- A missing name, a private one and a value that is not a function are `NoMethodError`.
local check = require 'check'
return {
  server = function()
    return {
      _private = function() return 'secret' end,
      nested = { _hidden = function() return 'secret' end, f = function() return 'f' end },
      _nested = { f = function() return 'secret' end },
      a_table = {},
      a_text = 'text',
      module = string,
    }
  end,
  client = function(endpoint)
    local c = endpoint.open()
    local names = {
      'missing', '_private', 'nested', 'nested._hidden', '_nested.f', 'a_table', 'a_text', 'a_text.len', 'nested..f',
      '', '.', '$yue/nothing', 'string.rep', 'print', 'os.execute', '__index', ('x'):rep(5000),
    }
    for _, name in ipairs(names) do
      local e = check.raises('NoMethodError', nil, c['=' .. name], 1)
      check.equal(e.retryable, false)
    end
    check.raises('NoMethodError', 'missing', c.nested.missing)
    check.equal(c.nested.f(), 'f')
  end,
}
