-- A test for busted that fails, after a wait.
describe('a test', function()
  it('fails', function()
    yue.sleep(0.001)
    assert.are.equal(1, 2)
  end)
end)
