-- A job queue over worker threads: retries, progress, results. Run it with:  yue jobs.lua [workers=4]
-- The jobs count primes. Some fail at their first attempt, as jobs do that use a network, and one fails always.
local yue = require 'yue'

local WORKERS = tonumber(yue.args.workers or 4)
local ATTEMPTS_MAX = 3
local JOB_S = 60 -- a job that takes longer has failed

--- The code of a worker thread. A thread has a loop and a Lua of its own: what it needs to know comes with a call.
local function worker()
  local function is_prime(n)
    for divisor = 2, math.sqrt(n) do
      if n % divisor == 0 then return false end
    end
    return n > 1
  end

  yue.thread.current:import {
    -- `progress` is a function of the caller. Called here, it runs there.
    count_primes = function(job, progress, first, last)
      if job.attempt == 1 and job.number % 4 == 0 then error('the network is down', 0) end
      local count = 0
      for n = first, last do
        if is_prime(n) then count = count + 1 end
        if n % 2000 == 0 then progress((n - first) / (last - first)) end
      end
      return count
    end,

    divide_by_zero = function() error('cannot divide by zero', 0) end,
  }
end

-- The queue. Jobs wait in a channel; each worker has a fiber here that takes one after another.
local queue = yue.channel(1000)
local jobs = {}

--- Adds a job: a worker's function and its arguments.
local function submit(name, ...)
  local job = { number = #jobs + 1, name = name, arguments = { ... }, attempt = 0, progress = 0 }
  job.finished = yue.event()
  jobs[job.number] = job
  queue:put(job)
end

local function finish(job, result, problem)
  job.result, job.problem, job.progress = result, problem, 1
  job.finished:set()
end

local function try_job(job, procs)
  job.attempt = job.attempt + 1
  local function progress(part) job.progress = part end
  local about = { number = job.number, attempt = job.attempt }
  local ok, result = pcall(procs['timed_' .. job.name], JOB_S, about, progress, unpack(job.arguments))
  if ok then
    finish(job, result)
  elseif job.attempt == ATTEMPTS_MAX then
    finish(job, nil, result)
  else
    -- Another attempt, a little later. This worker takes other jobs meanwhile.
    yue.spawn(function()
      yue.sleep(0.02 * 2 ^ job.attempt)
      queue:put(job)
    end)
  end
end

local threads = {}
for i = 1, WORKERS do
  threads[i] = yue.thread('worker-' .. i, worker)
  yue.spawn(function()
    for job in queue do try_job(job, threads[i].procs) end
  end)
end

-- Ten jobs of the first kind, one of the second.
for i = 0, 9 do submit('count_primes', i * 20000 + 1, (i + 1) * 20000) end
submit('divide_by_zero')

local display = yue.timer(0, 0.2)
display:bind('tick', function()
  local sum = 0
  for _, job in ipairs(jobs) do sum = sum + job.progress end
  print(('  %d %%'):format(100 * sum / #jobs))
end)

local primes = 0
for _, job in ipairs(jobs) do
  job.finished:wait()
  primes = primes + (job.result or 0)
  local outcome = job.result or ('failed: ' .. tostring(job.problem))
  print(('job %d, %s: %s, attempts: %d'):format(job.number, job.name, outcome, job.attempt))
end
print(('there are %d primes up to 200000'):format(primes))

-- Nothing is open any more: the program ends.
display:close()
queue:close()
for _, thread in ipairs(threads) do thread:close() end
