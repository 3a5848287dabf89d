-- Tests character making: starts the server, and answers its questions as a page does. Run it with:  yue test.lua
local yue = require 'yue'

local folder = arg[0]:match '.*/' or ''

-- /proc/self/exe is the running program: this same yue.
local server = yue.process.spawn { '/proc/self/exe', folder .. 'server.lua', 'tcp://127.0.0.1:0' }
local url = server:line():match '^serving at (http://.*)'

--- Makes a character with these answers, one list for each question. Returns the result, and all that was asked.
local function play(answers)
  local asked = {}
  local function answer(question)
    return function(...)
      local problem = select(select('#', ...), ...)
      asked[#asked + 1] = question .. (type(problem) == 'string' and ': ' .. problem or '')
      return table.remove(answers[question], 1)
    end
  end
  local page = yue.open(url:gsub('^http', 'ws') .. '/rpc', { no_cache = true }, {
    ask_name = answer 'ask_name',
    choose_class = answer 'choose_class',
    spend_points = answer 'spend_points',
    confirm = answer 'confirm',
  })
  local result = page.timed_create_character(20)
  yue.conn(page):close()
  return result, table.concat(asked, '\n')
end

local function test()
  assert(yue.http.get(url .. '/').body:find '<title>')
  assert(yue.http.get(url .. '/yue.js').headers['content-type'] == 'text/javascript')

  local result, asked = play {
    ask_name = { 'Frodo' },
    choose_class = { 'thief' },
    spend_points = { { strength = 1, agility = 6, wisdom = 3 } },
    confirm = { true },
  }
  assert(result == 'Frodo the thief enters the world')
  assert(asked == 'ask_name\nchoose_class\nspend_points\nconfirm', asked)

  -- Wrong answers are asked again, and a player may begin anew.
  result, asked = play {
    ask_name = { '', '<b>', ' Sam ', 'Rosie' },
    choose_class = { 'god', 'mage', 'warrior' },
    spend_points = {
      'all', { strength = 1e9, agility = 0, wisdom = 0 }, { strength = 0.5, agility = 9.5, wisdom = 0 },
      { strength = -1, agility = 11, wisdom = 0 }, { strength = 10, agility = 0, wisdom = 0 },
      { strength = 4, agility = 3, wisdom = 3 },
    },
    confirm = { false, true },
  }
  assert(result == 'Rosie the warrior enters the world', result)
  assert(asked == [[
ask_name
ask_name: a name has 2 to 20 letters
ask_name: a name has 2 to 20 letters
choose_class
choose_class: there is no such class
spend_points
spend_points: no points were given
spend_points: spend exactly 10 points, not 1000000000
spend_points: points are whole numbers
spend_points: points are whole numbers
confirm
ask_name
choose_class
spend_points
confirm]], asked)
end

-- The server is ended in any case.
yue.try { test, finally = function() server:kill() end }
print 'character making works'
