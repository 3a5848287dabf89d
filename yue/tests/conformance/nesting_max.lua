-- A value that is nested too deep is an error of its call, on either side; the next call succeeds.
local check = require 'check'
return {
  needs = { 'connection' },
  logs = { 'the link to', 'the handler of deep failed', 'the link from' },
  server = function()
    local function nested(levels)
      local value = {}
      for _ = 2, levels do value = { value } end
      return value
    end
    return {
      depth = function(x)
        local levels = 0
        while type(x) == 'table' do x, levels = x[1], levels + 1 end
        return levels
      end,
      deep = function(levels) return nested(levels) end,
    }
  end,
  client = function(endpoint)
    local function nested(levels)
      local value = {}
      for _ = 2, levels do value = { value } end
      return value
    end
    local c = endpoint.open { timeout = 60 }
    check.equal(c.depth(nested(128)), 128)
    check.raises('ArgumentError', 'args[1]', c.depth, nested(129))
    check.equal(c.depth(c.deep(128)), 128)
    check.raises('ServerError', nil, c.deep, 129)
    check.equal(c.depth(nested(1)), 1)
    -- A client that allows more than the server.
    local bold = endpoint.open { nesting_max = 1000, timeout = 60 }
    local e = check.raises('Error', nil, bold.depth, nested(500))
    check.equal(type(e.retryable), 'boolean')
    check.equal(bold.depth(nested(100)), 100)
    check.equal(c.depth(nested(3)), 3)
  end,
}
