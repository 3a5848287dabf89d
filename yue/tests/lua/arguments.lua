--! args: first key=value --flag script=x second a=b=c =odd
-- The command line, and facts about the program.
local check = require 'check'
check.equal(yue.args[0], 'arguments.lua' and yue.args[0])
check.contains(yue.args[0], 'arguments.lua')
check.equal({ unpack(yue.args) }, { 'first', '--flag', 'second', '=odd' })
check.equal({ yue.args.key, yue.args.script, yue.args.a }, { 'value', 'x', 'b=c' })
check.equal(yue.mode, 'main')
check.equal(yue.thread.current.index, 1)
check.that(yue.feature.driver == 'io_uring' or yue.feature.driver == 'uring' or yue.feature.driver == 'mio',
  yue.feature.driver)
check.equal(type(yue.feature.jit), 'boolean')
check.equal(type(yue.version), 'string')
check.equal(require 'yue', yue)
check.that(yue.const.SIGINT == 2 and yue.const.SIGTERM == 15)
for _, wrong in ipairs { 5, 'x' } do check.raises('ArgumentError', 'table', yue.die, wrong) end
check.raises('ArgumentError', 'shutdown_after', yue.die, { shutdown_after = 'x' })
check.done()
