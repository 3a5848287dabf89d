-- Prints the book's table of behaviours and transports, as Markdown.
package.path = (debug.getinfo(1, 'S').source:match '^@(.*/)' or '') .. '?.lua;' .. package.path
local suite = require 'suite'
local transports = require 'transports'

local notes = {}

--- The number of a reason among the notes below the table.
local function note(reason)
  for number, known in ipairs(notes) do
    if known == reason then return number end
  end
  notes[#notes + 1] = reason
  return #notes
end

local function row(...)
  print(('| %s |'):format(table.concat({ ... }, ' | ')))
end

for _, section in ipairs(suite.sections) do
  local head = { 'behaviour' }
  for i, transport in ipairs(transports) do head[i + 1] = ('`%s://`'):format(transport.scheme) end
  head[#head + 1] = 'script'
  print(('\n### %s\n'):format(section[1]))
  row(unpack(head))
  print('|' .. ('---|'):rep(#head))
  for i = 2, #section do
    local behaviour = suite.load(section[i])
    local cells = { behaviour.title }
    for _, transport in ipairs(transports) do
      local reason = suite.reason_against(behaviour, transport)
      cells[#cells + 1] = reason and ('no (%d)'):format(note(reason)) or 'yes'
    end
    cells[#cells + 1] = ('`%s.lua`'):format(behaviour.name)
    row(unpack(cells))
  end
end
for number, reason in ipairs(notes) do print(('\n(%d) %s'):format(number, reason)) end
