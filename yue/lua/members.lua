-- Calls to all members of a multicast group: what `c.mcast_f(…)` returns.
--
-- Answers come from the fiber that completes futures (`proxy.lua`), one at a time, and stay in the object's list: the
-- native side bounds their number and size. The call ends with its time, since nobody knows how many members there are.
local core, yue, internal = ...
local select, unpack, error = select, unpack, error

local Answers = internal.emitter_class { 'answer', 'done' }
Answers.__tostring = function(self)
  return ('answers to %s%s'):format(self.method, self.closed and ' (all)' or '')
end

--- Called with a member's answer, or at the end: then without a sender, and with the error that ended the call.
local function take_answer(self, sender, ok, ...)
  if not sender then
    internal.futures[self.call] = nil
    if self.closed then return end
    local e = ...
    if not e:is_a('TimeoutError') then self.failure = e end
    self:emit('done')
    return internal.end_emitter(self)
  end
  if self.closed then return end
  self.count = self.count + 1
  self[self.count] = { n = 2 + select('#', ...), sender, ok, ... }
  self:emit('answer', sender, ok, ...)
end

--- Calls all members with the arguments, and takes answers for `seconds` (-1: the connection's timeout).
function internal.call_members(node, seconds, ...)
  local answers = internal.new_emitter(Answers, {
    count = 0, taken = 0, keep = node, method = node[2], take_answer = take_answer,
  })
  answers.call = core.call_members(node, seconds, ...)
  internal.futures[answers.call] = answers
  return answers
end

--- The next answer: the sender's address, then `true, results…` or `false, error`. Waits for it; nil at the end. So
--- `for sender, ok, result in c.mcast_f() do … end` takes all of them.
function Answers:__call()
  while self.taken == self.count do
    if self.closed then
      if self.failure then error(self.failure, 0) end
      return nil
    end
    self:wait('answer')
  end
  self.taken = self.taken + 1
  local row = self[self.taken]
  return unpack(row, 1, row.n)
end

--- Waits for the end: `true` and a list of `{ sender, ok, … }`, or `false` and the error that ended the call early.
function Answers:sync()
  while not self.closed do self:wait('done') end
  if self.failure then return false, self.failure end
  local list = {}
  for i = 1, self.count do list[i] = self[i] end
  return true, list
end

--- Like `sync`, but returns the list alone, or raises.
function Answers:get()
  local ok, result = self:sync()
  if not ok then error(result, 0) end
  return result
end

--- Whether no more answers are taken.
function Answers:done()
  return self.closed == true
end

--- Takes no more answers.
function Answers:cancel()
  self:close()
end

function Answers:on_close()
  core.cancel_call(self.call)
end
