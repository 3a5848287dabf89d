-- The README's game runs, in a loop like LÖVE's, and prints what it shows after `-->`.
local check = require 'check'
local socket = require 'socket'

local tests = {}

function tests.the_readmes_game_prints_what_it_shows()
  local file = assert(io.open 'README.md')
  local text = file:read '*a'
  file:close()
  local blocks = {}
  for block in text:gmatch '```lua\n(.-)```' do blocks[#blocks + 1] = block end
  check.equal(#blocks, 2)
  local server = blocks[1]:gsub('yue%.listen', 'listener = yue.listen'):gsub("'tcp://127%.0%.0%.1:8080'", 'yue.args[1]')
  local address = check.serve(server).address
  local shown, printed, quit = {}, {}, false
  for line in blocks[2]:gmatch '%-%->%s*([^\n]+)' do shown[#shown + 1] = line end

  local love = { event = { quit = function() quit = true end } }
  local function print_line(...)
    local words = {}
    for i = 1, select('#', ...) do words[i] = tostring((select(i, ...))) end
    printed[#printed + 1] = table.concat(words, '  ')
  end
  local game = assert(loadstring((blocks[2]:gsub('tcp://127%.0%.0%.1:8080', address))))
  setfenv(game, setmetatable({ love = love, print = print_line }, { __index = _G }))
  game()
  love.load()
  check.wait('the end of the game', function()
    love.update()
    return quit
  end)
  for i = 1, math.max(#shown, #printed) do check.equal(printed[i], shown[i], 'line ' .. i) end
  check.equal(socket ~= nil and #shown, 5)
end

check.main(tests)
