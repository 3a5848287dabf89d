-- Map-reduce over three nodes: counts the words of a text. Run it with:  yue wordcount.lua
--
--   yue wordcount.lua text=FILE           counts the words of a file
--   yue wordcount.lua crash=yes           one node dies in the middle: its part is done again
--   yue wordcount.lua local thread        one child process and one thread; any targets of yue.nalloc will do
local yue = require 'yue'

local PART_BYTES = 64 * 1024
local TASK_S = 30 -- a worker that takes longer has failed

local folder = arg[0]:match '.*/' or ''

-- A node for each target on the command line, or three child processes. They end with this program, however it ends.
local targets = { unpack(yue.args) }
if #targets == 0 then targets = { 'local', 'local', 'local' } end
local workers = {}
for i, target in ipairs(targets) do
  workers[i] = { name = 'worker ' .. i, future = yue.spawn(yue.nalloc, target, folder .. 'worker.lua') }
end
for _, worker in ipairs(workers) do worker.procs = worker.future:get() end

--- Calls `name(task)` for each task, by any worker, and returns the results. The task of a worker that fails is put
--- back for the others, and the worker gets no more.
local function run(name, tasks)
  local queue, results, left = yue.channel(#tasks), {}, #tasks
  for i = 1, #tasks do queue:put(i) end
  local fibers = {}
  for _, worker in ipairs(workers) do
    fibers[#fibers + 1] = yue.spawn(function()
      while not worker.has_failed do
        local i = queue:get()
        if not i then return end -- all is done
        local ok, result = pcall(worker.procs['timed_' .. name], TASK_S, tasks[i])
        if ok then
          results[i], left = result, left - 1
          if left == 0 then queue:close() end
        else
          print(('%s failed: %s; %s %d is done again'):format(worker.name, result.type, name, i))
          worker.has_failed = true
          queue:put(i)
        end
      end
    end)
  end
  yue.all(fibers)
  if left > 0 then error('no worker is left', 0) end
  return results
end

--- A text in parts, none of which ends within a word.
local function split(text)
  local parts, from = {}, 1
  while from <= #text do
    local last = text:find('%A', from + PART_BYTES) or #text
    parts[#parts + 1] = text:sub(from, last)
    from = last + 1
  end
  return parts
end

--- Distributes the counts of all parts: those of one word into one bucket.
local function shuffle(partial)
  local buckets = {}
  for i = 1, #workers do buckets[i] = {} end
  for i, counts in ipairs(partial) do
    for _, bucket in ipairs(buckets) do bucket[i] = yue.map {} end
    for word, count in pairs(counts) do buckets[word:byte() % #workers + 1][i][word] = count end
  end
  return buckets
end

local POEM = [[
The Owl and the Pussy-cat went to sea
In a beautiful pea-green boat,
They took some honey, and plenty of money,
Wrapped up in a five-pound note.
]]
local text = yue.args.text and yue.fs.read(yue.args.text) or POEM:rep(10000)
local parts = split(text)
print(('%d bytes in %d parts, for %d workers'):format(#text, #parts, #workers))

if yue.args.crash then
  -- Notifications and calls of one connection arrive in order: the last worker dies with its first task.
  workers[#workers].procs.notify_crash()
end

local buckets = run('reduce', shuffle(run('map', parts)))

local words = {}
for _, counts in ipairs(buckets) do
  for word, count in pairs(counts) do words[#words + 1] = { word = word, count = count } end
end
table.sort(words, function(a, b) return a.count > b.count or a.count == b.count and a.word < b.word end)
for i = 1, math.min(5, #words) do print(('%8d %s'):format(words[i].count, words[i].word)) end
