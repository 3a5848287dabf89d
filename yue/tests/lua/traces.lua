--! stderr: the handler of fail failed, called by tcp://127.0.0.1:
--! stderr: , trace 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01: RuntimeError: oh no
-- Traces and call chains are inherited by the calls of handlers, and by the fibers that handlers start.
local check = require 'check'
local HEADER = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
local seen = {}
local function note(name) seen[name] = { yue.trace.current() or 'none', yue.trace.chain() or 'none' } end

local listener = yue.listen('tcp://127.0.0.1:0', nil, {
  there = function()
    note 'there'
    yue.peer().procs.back()
    note 'after'
    return yue.trace.current()
  end,
  spawning = function()
    return yue.spawn(function()
      yue.sleep(0)
      yue.peer().procs['end']()
      return yue.trace.current()
    end):get()
  end,
  async = function() return yue.peer().procs.async_back():get() end,
  fail = function() error('oh no', 0) end,
  inner = function(header)
    local before = yue.trace.chain()
    local inside = yue.trace.start(header, function() return yue.peer().procs['end']() end)
    return inside, yue.trace.current(), before
  end,
  ['end'] = function() note 'end' return yue.trace.current() end,
})
local c = yue.open(listener:addr(), { no_cache = true }, {
  back = function() note 'back' return yue.peer().procs['end']() end,
  ['end'] = function() note 'client end' return yue.trace.current() end,
})

-- Nobody has begun a trace: there is none. The chain begins with the first call that a handler makes.
check.equal(yue.trace.current(), nil)
check.equal(yue.trace.chain(), nil)
check.equal(c.there(), nil)
check.equal(seen.there, { 'none', 'none' })
local chain = seen.back[2]
check.that(chain:match('^%x+$') and #chain == 12, chain)
check.equal(seen.back, { 'none', chain })
check.equal(seen['end'], { 'none', chain })
check.equal(seen.after, { 'none', chain })

-- One that came with an HTTP request, say.
local function count(...) return { select('#', ...), c.there(), yue.trace.current() } end
check.equal(yue.trace.start(HEADER, count, nil, 1), { 2, HEADER, HEADER })
for _, name in ipairs { 'there', 'back', 'end', 'after' } do check.equal(seen[name][1], HEADER, name) end
check.that(seen['end'][2] ~= chain, 'each request begins a chain of its own')
check.equal(yue.trace.current(), nil)
check.equal(yue.trace.start(HEADER, c.spawning), HEADER)
check.equal(seen['client end'][1], HEADER)
check.equal(yue.trace.start(HEADER, c.async), HEADER)
check.equal(yue.spawn(function() return yue.trace.start(HEADER, yue.spawn, c.there):get() end):get(), HEADER)

-- A new one, without a header or with one that is none.
local function begun(...) return yue.trace.start(...) end
for _, header in ipairs { '', 'nonsense', HEADER:upper(), ('0'):rep(55), HEADER .. '\0', '\255' } do
  local trace = begun(header, c.there)
  check.that(trace:match('^00%-%x+%-%x+%-01$') and #trace == 55 and trace ~= HEADER, trace)
end
check.that(begun(c.there) ~= begun(nil, c.there), 'two traces are the same')
check.raises('ArgumentError', 'yue.trace.start takes', yue.trace.start)
check.raises('ArgumentError', 'yue.trace.start takes', yue.trace.start, 7, print)
check.raises('ArgumentError', 'yue.trace.start takes', yue.trace.start, HEADER)

-- A handler may begin one for a part of its work, which keeps its peer and its chain.
local inside, after, before = c.inner(HEADER)
check.equal({ inside, after or 'none', before or 'none' }, { HEADER, 'none', 'none' })
check.that(seen['client end'][2] ~= 'none')

-- An error leaves it, too, and comes out as it went in.
check.raises('RuntimeError', 'out', yue.trace.start, HEADER, function() error('out', 0) end)
check.equal(yue.trace.current(), nil)
check.raises('RuntimeError', 'oh no', yue.trace.start, HEADER, c.fail)
listener:close()
check.done()
