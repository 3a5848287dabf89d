-- Tests for busted to run: they wait in every place where busted calls them.
local yue = require 'yue'

describe('a test', function()
  local prepared = 0

  before_each(function()
    yue.sleep(0.001)
    prepared = prepared + 1
  end)

  it('waits for fibers', function()
    local fiber = yue.spawn(function()
      yue.sleep(0.001)
      return 'done'
    end)
    assert.are.equal('done', fiber:get())
  end)

  it('waits inside an assertion', function()
    assert.has_error(function()
      yue.sleep(0.001)
      error('expected', 0)
    end, 'expected')
    assert.is_true(prepared >= 1)
  end)

  it('calls a server', function()
    local listener = yue.listen('tcp://127.0.0.1:0', { add = function(a, b) return a + b end })
    assert.are.equal(5, yue.open(listener:addr()).add(2, 3))
    listener:close()
  end)
end)
