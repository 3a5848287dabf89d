-- A worker of wordcount.lua, which starts it. By hand, on any machine:  yue worker.lua tcp://0.0.0.0:9001
local yue = require 'yue'

-- stdio:// serves the program that has started this one, over standard input and output.
yue.listen(yue.args[1] or 'stdio://', {
  --- Counts the words of a text.
  map = function(text)
    local counts = {}
    for word in text:lower():gmatch "%a+" do counts[word] = (counts[word] or 0) + 1 end
    return yue.map(counts)
  end,

  --- Adds up counts of the same words.
  reduce = function(list)
    local sums = {}
    for _, counts in ipairs(list) do
      for word, count in pairs(counts) do sums[word] = (sums[word] or 0) + count end
    end
    return yue.map(sums)
  end,

  --- Dies at once, as machines do. For demonstrations.
  crash = function() os.exit(1) end,
})
