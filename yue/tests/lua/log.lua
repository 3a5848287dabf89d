--! stderr: Z yue warn: joined 7 player=bob room="a b" tags={ 1, 2 }
--! stderr: yue info: forged text="\nyue error: mine"
-- Entries with fields, in both forms; the level and the form of the process.
local check = require 'check'
local exe = yue.fs.exists '/proc/self/exe' and io.popen 'readlink /proc/$PPID/exe':read '*l'

-- -- Levels and forms
check.equal(yue.log.level(), 'info')
check.equal(yue.log.level 'warn', 'info')
check.equal(yue.log.level(), 'warn')
yue.log.info 'not shown'
check.equal(yue.log.level 'off', 'warn')
yue.log.error 'not shown'
check.equal(yue.log.level 'info', 'off')
check.raises('ArgumentError', "'debug', 'info', 'warn', 'error' or 'off'", yue.log.level, 'loud')
check.raises('ArgumentError', 'yue.log.level takes a name, not the number 1', yue.log.level, 1)
check.equal(yue.log.format(), 'text')
check.raises('ArgumentError', "'text' or 'json'", yue.log.format, 'xml')

-- -- Fields
local logger = yue.log.with { player = 'amy', room = 'a b' }.with { player = 'bob', tags = { 1, 2 } }
logger.warn('joined', 7)
yue.log.with { text = '\nyue error: mine' }.info 'forged'
check.raises('ArgumentError', 'takes a table of fields', yue.log.with, 'player')
check.raises('ArgumentError', 'names of fields are strings', yue.log.with, { 'player' })

-- -- JSON: the entries of a program, one object on each line
local function entries(code, env, ...)
  local command = { exe, ... }
  command[#command + 1], command[#command + 2] = '-e', code
  command.env = env
  local result = yue.process.run(command)
  local list = {}
  for line in result.err:gmatch '[^\n]+' do
    local ok, entry = pcall(yue.json.decode, line)
    if not ok then error('no JSON: ' .. line) end
    check.that(entry.time:find '^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ$', line)
    list[#list + 1] = entry
  end
  return list, result
end

local all = entries([[
  yue.log.with { n = 1.5, whole = 12345678901, yes = true, list = yue.array { 'x' }, msg = 'own', nan = 0/0,
    null = yue.null, fn = print }.info('a "text"', { 1 }, '\n{"level":"error"}\27')
  yue.spawn(function() error 'in a fiber' end)
  local l = yue.listen('tcp://127.0.0.1:0', { fail = function() error 'in a handler' end })
  pcall(yue.open(l:addr()).fail)
  l:close()
  local timer = yue.timer(0)
  timer:bind('tick', function() error 'in a callback' end)
  timer:wait 'tick'
  -- A layer below Lua: a handshake that is none.
  local sockets = yue.listen('ws://127.0.0.1:0/', {})
  local raw = require 'raw'.connect('tcp://127.0.0.1:' .. sockets:addr():match ':(%d+)/')
  raw:send 'no request at all\r\n\r\n'
  repeat yue.sleep(0.005) until sockets:stats().handshakes_failed > 0
  sockets:close()
]], { YUE_LOG_FORMAT = 'json' })
local by_text = {}
for _, entry in ipairs(all) do by_text[entry.msg] = entry end
local first = all[1]
check.equal(first.msg, 'a "text" { 1 } \n{"level":"error"}\27')
check.equal({ first.level, first.loop, first.n, first.whole, first.yes, first.msg_, first.nan, first.list[1] },
  { 'info', 'loop 1', 1.5, 12345678901, true, 'own', 'nan', 'x' })
check.that(first.null == yue.null and first.fn:find 'function')
local function find(part)
  for text, entry in pairs(by_text) do
    if text:find(part, 1, true) then return entry end
  end
  error('no entry with ' .. part .. ' in ' .. check.show(by_text))
end
local handler = find 'the handler of fail failed'
check.equal({ handler.level, handler.method, handler.error }, { 'error', 'fail', 'RuntimeError' })
check.contains(handler.peer, 'tcp://127.0.0.1:')
check.contains(handler.traceback, 'stack traceback')
check.that(not handler.msg:find('\n', 1, true), handler.msg)
check.contains(find 'in a callback'.traceback, 'stack traceback')
local unseen = find 'in a fiber'
check.contains(unseen.msg, 'nobody asked for its result')
check.contains(unseen.traceback, 'stack traceback')
check.that(not unseen.msg:find('\n', 1, true), unseen.msg)
local below = find 'the handshake with ws://127.0.0.1:'
check.equal({ below.level, below.loop }, { 'warn', 'loop 1' })

-- The error that ends a program, and the option.
local last, result = entries('error "the end"', {}, '--log-format', 'json')
check.equal(#last, 1)
check.equal({ result.code, last[1].level, last[1].error }, { 1, 'error', 'RuntimeError' })
check.contains(last[1].msg, 'the end')
check.contains(last[1].traceback, 'stack traceback')
-- The option wins over the variable.
check.contains(yue.process.run { exe, '--log-format', 'text', '-e', 'yue.log.info "hello"',
  env = { YUE_LOG_FORMAT = 'json' } }.err, 'Z yue info: hello\n')
check.contains(yue.process.run { exe, '-e', 'yue.log.format "json" yue.log.warn "x"' }.err, '"level":"warn"')

-- Values of the variables that do not exist: one warning each.
local text = yue.process.run { exe, '-e', 'yue.log.info "hello"',
  env = { YUE_LOG = 'verbose', YUE_LOG_FORMAT = 'xml\nyue' } }.err
check.contains(text, "yue warn: YUE_LOG is ignored: it is 'debug', 'info', 'warn', 'error' or 'off', not 'verbose'\n")
check.contains(text, "yue warn: YUE_LOG_FORMAT is ignored: it is 'text' or 'json', not 'xml\n    yue'\n")
check.contains(text, 'yue info: hello\n')
check.equal(select(2, text:gsub('\n', '\n')), 4)
check.equal(yue.process.run { exe, '--log-format', 'xml', '-e', '' }.code, 2)
-- Handlers of HTTP and of sockets: their entries have the method and the peer.
local failures = entries([[
  local s = yue.http.serve('tcp://127.0.0.1:0', { ['GET /x'] = function() error 'broken' end })
  yue.http.get(s:url() .. '/x')
  local l = yue.net.listen('tcp://127.0.0.1:0', function() error 'broken, too' end)
  local c = yue.net.connect(l:addr())
  pcall(c.read, c)
  s:close()
  l:close()
]], { YUE_LOG_FORMAT = 'json' })
check.equal(#failures, 2)
check.equal({ failures[1].method, failures[1].error, failures[2].error }, { 'GET /x', 'RuntimeError', 'RuntimeError' })
check.contains(failures[1].peer, 'http://127.0.0.1:')
check.contains(failures[2].peer, 'tcp://127.0.0.1:')
check.contains(failures[2].msg, 'broken, too')
check.done()
