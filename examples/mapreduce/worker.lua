-- The library of the nodes of wordcount.lua: its globals are what the program calls.

--- Counts the words of a text.
function map(text)
  local counts = {}
  for word in text:lower():gmatch "%a+" do counts[word] = (counts[word] or 0) + 1 end
  return yue.map(counts)
end

--- Adds up counts of the same words.
function reduce(list)
  local sums = {}
  for _, counts in ipairs(list) do
    for word, count in pairs(counts) do sums[word] = (sums[word] or 0) + count end
  end
  return yue.map(sums)
end

--- Dies at once, as machines do. For demonstrations.
function crash() os.exit(1) end
