-- `$yue/describe`: what a peer may call, with the names of parameters and the comments above functions.
local check = require 'check'
local yue = require 'yue'

local symbols = { chat = { room = {} } }

--- Says hello.
---
---@param name string Who is greeted.
---@return string
function symbols.hello(name, loudly)
  return name, loudly
end

-- Not next to the function: a blank line ends the comment.

function symbols.chat.say(...)
  return ...
end

symbols.chat.room.leave = function() end -- a comment behind is none above
-- An indented one is found, too.
  function symbols.chat._private() end
symbols.time, symbols['a.b'], symbols.number, symbols[5] = os.time, print, 5, print
symbols.json = require 'string' -- a module is never callable
symbols.chat.again = symbols.chat -- a circle: it is callable as deep as one likes, and listed to a limit
function symbols.__open() end

local c, listener = check.pair(symbols)
local conn = yue.conn(c)
local list, more = conn:describe()
check.equal(more, true, 'a circle has no end')
local by_name = {}
for i, entry in ipairs(list) do
  by_name[entry.name] = entry
  check.that(i == 1 or list[i - 1].name < entry.name, 'sorted')
end
check.equal(by_name.hello, {
  name = 'hello', params = { 'name', 'loudly' },
  doc = 'Says hello.\n\n@param name string Who is greeted.\n@return string',
})
check.equal(by_name['chat.say'], { name = 'chat.say', params = {}, vararg = true })
check.equal(by_name['chat.room.leave'], { name = 'chat.room.leave', params = {} })
check.equal(by_name['chat.again.say'].vararg, true)
check.equal(by_name.time, { name = 'time' }, 'a function of C does not say what it takes')
for _, name in ipairs { 'chat._private', 'a.b', 'number', 'json.rep', '__open' } do check.equal(by_name[name], nil) end

-- The answer is as live as the lookup of a call.
symbols.chat.again, symbols.json = nil, nil
listener.namespace.fresh = function(one) return one end
listener:import { hello = function(shadows) return shadows end }
list, more = conn:describe()
check.equal(more, false)
local names = {}
for _, entry in ipairs(list) do names[#names + 1] = entry.name end
check.equal(names, { 'chat.room.leave', 'chat.say', 'fresh', 'hello', 'time' })
check.equal(list[4], { name = 'hello', params = { 'shadows' } }, 'the function that a call would reach')

-- Code without a file has its comments in its text.
local code = '--- From a string.\nreturn function(a, b) end'
local made = assert(loadstring(code, code))
listener.namespace.made = made()
-- A chunk's name does not prove that the file exists.
listener.namespace.lost = assert(loadstring('return function(x) end', '@/no/such/file.lua'))()
list = conn:describe()
check.equal(list[5], { name = 'lost', params = { 'x' } })
check.equal({ list[6].name, list[6].doc }, { 'made', 'From a string.' })

-- The types that comments mention travel, with those that these mention.
local code_with_types = [==[
---@class Point
---@field x number
---@field y number

--- A thing with a place.
---@class (exact) Thing
---@field at Point
---@field kind Kind|nil
---@alias Kind
---| 'tree'
---| 'stone' # heavy

---@class Unused
---@field x number

---@class Twice
---@class Twice
---@class Long LONG

local symbols = {}
--- Moves a thing. Unused is only a word here.
---@param thing Thing
---@param more Twice|Long|Unknown
function symbols.move(thing, more) end
return symbols
]==]
local typed = assert(loadstring((code_with_types:gsub('LONG', ('x'):rep(5000)))))()
local typed_c, typed_listener = check.pair(typed)
local _, has_more, types = yue.conn(typed_c):describe()
check.equal(has_more, false)
check.equal(types, {
  { name = 'Kind', doc = "@alias Kind\n| 'tree'\n| 'stone' # heavy" },
  { name = 'Point', doc = '@class Point\n@field x number\n@field y number' },
  { name = 'Thing', doc = '@class (exact) Thing\n@field at Point\n@field kind Kind|nil' },
})
-- Of two files that mean different types by one name, neither is right for both.
local other = assert(loadstring '---@class Point\n---@field z number\n\n---@param p Point\nreturn function(p) end')()
typed_listener.namespace.other = other
local _, _, fewer = yue.conn(typed_c):describe()
check.equal({ fewer[1].name, fewer[2].name, fewer[3] }, { 'Kind', 'Thing', nil })
local _, _, none = conn:describe()
check.equal(none, {})
typed_listener:close()

-- Both directions: the server may ask its client.

local back, second = check.pair(
  { ask = function() return yue.peer():describe() end },
  { mine = function(a) return a end }
)
check.equal(back.ask(), { { name = 'mine', params = { 'a' } } })

-- More functions than an answer lists.
local many = {}
for i = 1, 5000 do many['f' .. i] = function() end end
local many_c, third = check.pair(many)
list, more = yue.conn(many_c):describe()
check.equal({ #list, more }, { 4096, true })

-- It can be turned off, and answers only after the grant.
local silent = yue.listen('tcp://127.0.0.1:0', { describe = false }, { f = function() end })
check.raises('NoMethodError', 'describe', function() yue.socket(silent:addr()):describe() end)
local strict = yue.listen('tcp://127.0.0.1:0', { __accept = function() return false end, f = function() end })
check.raises('NotGrantedError', nil, function() yue.socket(strict:addr(), { timeout = 1 }, {}):describe() end)

-- A peer that answers it with something else.
local odd = yue.listen('tcp://127.0.0.1:0', { describe = false }, { ['$yue'] = 1 })
check.raises('NoMethodError', nil, function() yue.socket(odd:addr(), { legacy = true }, {}):describe() end)
for _, open in ipairs { listener, second, third, silent, strict, odd } do open:close() end
check.done()
