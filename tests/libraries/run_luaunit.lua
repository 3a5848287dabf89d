-- Runs luaunit, whose tests wait; its options are this program's.
local yue, luaunit = require 'yue', require 'luaunit'

TestFibers = {}

function TestFibers:setUp()
  yue.sleep(0.001)
  self.prepared = true
end

function TestFibers:testWaits()
  local fiber = yue.spawn(function()
    yue.sleep(0.001)
    return 'done'
  end)
  luaunit.assertEquals(fiber:get(), 'done')
  luaunit.assertTrue(self.prepared)
end

function TestFibers:testWaitsInsideAnAssertion()
  luaunit.assertErrorMsgContains('expected', function()
    yue.sleep(0.001)
    error('expected')
  end)
end

os.exit(luaunit.LuaUnit.run(unpack(yue.args)))
