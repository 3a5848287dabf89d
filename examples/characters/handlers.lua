-- The functions that a page may call: the globals of this file. `yue dev` reloads this file when it changes.
local yue = require 'yue'

local ANSWER_S = 600 -- a human thinks
local POINTS = 10

local CLASSES = {
  { name = 'warrior', about = 'Strong, and hard to stop.' },
  { name = 'thief', about = 'Quick hands and soft feet.' },
  { name = 'mage', about = 'Knows what nobody should.' },
}
local ABILITIES = { 'strength', 'agility', 'wisdom' }

--- Asks until the answer is right. `check` returns the answer as it is kept, or nil and what is wrong with it. The page
--- helps its user, but the server decides: anybody can write a page.
local function ask(check, question)
  local answer, problem
  repeat
    answer, problem = check(question(problem))
  until answer
  return answer
end

local function check_name(name)
  name = tostring(name):match '^%s*(.-)%s*$'
  if name:find '^%a[%a \'-]+$' and #name <= 20 then return name end
  return nil, 'a name has 2 to 20 letters'
end

local function check_class(name)
  for _, class in ipairs(CLASSES) do
    if class.name == name then return name end
  end
  return nil, 'there is no such class'
end

local function check_points(points)
  if type(points) ~= 'table' then return nil, 'no points were given' end
  local kept, sum = {}, 0
  for _, ability in ipairs(ABILITIES) do
    local n = points[ability]
    if type(n) ~= 'number' or n < 0 or n ~= math.floor(n) then return nil, 'points are whole numbers' end
    kept[ability], sum = n, sum + n
  end
  if sum ~= POINTS then return nil, ('spend exactly %d points, not %d'):format(POINTS, sum) end
  return kept
end

--- Makes a character. Each question is a call to the page that is calling. If the page closes in the middle, the
--- waiting question fails, and with it this function.
---@return string
function create_character()
  local page = yue.peer().procs
  local character
  repeat
    local name = ask(check_name, function(problem) return page.timed_ask_name(ANSWER_S, problem) end)
    local class = ask(check_class, function(problem) return page.timed_choose_class(ANSWER_S, CLASSES, problem) end)
    local points = ask(check_points, function(problem)
      return page.timed_spend_points(ANSWER_S, ABILITIES, POINTS, problem)
    end)
    character = { name = name, class = class, points = points }
  until page.timed_confirm(ANSWER_S, character)
  return ('%s the %s enters the world'):format(character.name, character.class)
end
