-- An error arrives with its type, message and value; its traceback only over `unix://` and `thread://`.
local check = require 'check'
return {
  logs = { 'the handler of ' },
  server = function()
    return {
      text = function() error 'it went wrong' end,
      plain = function() error('without a place', 0) end,
      value = function() error { code = 3, why = { 'a', 'b' } } end,
      typed = function() error(yue.errors.ArgumentError.new('a number is needed', { position = 1 })) end,
      lua = function() local x = nil return x.field end,
      nothing = function() error() end,
      unsendable = function() return coroutine.create(print) end,
      fine = function() return 'fine' end,
    }
  end,
  client = function(endpoint)
    local c = endpoint.open()
    local e = check.raises('RuntimeError', 'it went wrong', c.text)
    check.contains(e.msg, 'errors.lua:')
    check.equal(e.type, 'RuntimeError')
    check.that(e:is_a 'RPCError' and not e:is_a 'ClientError')
    check.equal(e.retryable, false)
    if endpoint.has.tracebacks then
      check.contains(e.bt, 'errors.lua')
    else
      check.equal(e.bt, nil)
    end
    check.equal(check.raises('RuntimeError', nil, c.plain).msg, 'without a place')
    check.equal(check.raises('RuntimeError', nil, c.value).value, { code = 3, why = { 'a', 'b' } })
    e = check.raises('ArgumentError', 'a number is needed', c.typed)
    check.equal(e.value, { position = 1 })
    check.raises('RuntimeError', "attempt to index local 'x'", c.lua)
    check.raises('RuntimeError', nil, c.nothing)
    check.raises('ServerError', 'results[1]', c.unsendable)
    local ok, failed = c.async_text():sync()
    check.that(not ok and failed:is_a 'RuntimeError')
    check.equal(c.fine(), 'fine')
  end,
}
