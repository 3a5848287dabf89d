-- Functions that the peer holds above `references_max`: the call that would pass one more fails.
local check = require 'check'
return {
  needs = { 'references' },
  server = function()
    local kept = {}
    return { keep = function(f) kept[#kept + 1] = f return #kept end }
  end,
  client = function(endpoint)
    local c = endpoint.open { references_max = 10 }
    for i = 1, 10 do check.equal(c.keep(function() end), i) end
    local e = check.raises('MessageRefusedError', nil, c.keep, function() end)
    check.equal(type(e.retryable), 'boolean')
    check.equal(c.keep(1), 11)
  end,
}
