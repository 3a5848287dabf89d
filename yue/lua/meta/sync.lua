---@meta yue.sync
-- LuaCATS stubs of `yue`, continued: what fibers share. They are never run. docs/src/lua-api.md explains.

---@class yue
local yue = {}

-- -- Channels and locks ---------------------------------------------------------------------------------------------

---A queue of values between the fibers of one loop. `for value in ch do` takes values until it is closed and empty.
---@class yue.Channel
---@field closed boolean
---@field capacity integer
---@overload fun(): any
local Channel = {}

---Puts a value, which is not nil: waits while the channel is full. Raises if it is closed.
---@param value any
---@param timeout number? Seconds.
---@return boolean # False after `timeout`.
function Channel:put(value, timeout) end

---Takes the first value: waits while there is none.
---@param timeout number? Seconds.
---@return any # nil once the channel is closed and empty, and after `timeout`.
---@return 'closed'|'timeout'|nil # The reason of nil.
function Channel:get(timeout) end

---Closes the channel. Its values can still be taken. A second close does no harm.
function Channel:close() end

---@return integer # The number of values in it.
function Channel:count() end

---Creates a channel. With the capacity 0, the default, each `put` waits for its `get`.
---@param capacity integer?
---@return yue.Channel
function yue.channel(capacity) end

---A lock that one fiber holds at a time.
---@class yue.Mutex
local Mutex = {}

---Waits while another fiber holds the mutex. Raises if the calling fiber holds it.
---@param timeout number? Seconds.
---@return boolean # False after `timeout`.
function Mutex:lock(timeout) end

---Unlocks the mutex, which the calling fiber must have locked.
function Mutex:unlock() end

---Runs `fn(...)` while the calling fiber holds the mutex. An error unlocks it, too.
---@param fn function
---@param ... any
---@return any ...
function Mutex:with(fn, ...) end

---@return boolean # Whether a fiber holds it.
function Mutex:locked() end

---@return yue.Mutex
function yue.mutex() end

---A number of permits.
---@class yue.Semaphore
local Semaphore = {}

---Takes `count` permits, 1 by default: waits until they are free.
---@param count integer?
---@param timeout number? Seconds.
---@return boolean # False after `timeout`.
function Semaphore:acquire(count, timeout) end

---Returns `count` permits, 1 by default.
---@param count integer?
function Semaphore:release(count) end

---Runs `fn(...)` with one permit, which is released after an error, too.
---@param fn function
---@param ... any
---@return any ...
function Semaphore:with(fn, ...) end

---@return integer # The number of free permits.
function Semaphore:available() end

---@param count integer
---@return yue.Semaphore
function yue.semaphore(count) end

---A flag that fibers wait for.
---@class yue.Event
local Event = {}

---Sets it: wakes all fibers that wait for it; later waits return at once.
function Event:set() end

---Clears it.
function Event:reset() end

---Waits until it is set.
---@param timeout number? Seconds.
---@return boolean # False after `timeout`.
function Event:wait(timeout) end

---@return boolean
function Event:is_set() end

---@return yue.Event
function yue.event() end

-- -- Task groups -----------------------------------------------------------------------------------------------------

---Many timers of coarse resolution.
---@class yue.TaskGroup
---@field count integer The number of tasks that are not closed.
local TaskGroup = {}

---A task, which emits `tick` after `start` seconds, and then every `interval` seconds; once, without `interval`. Never
---early, and up to the group's resolution late.
---@param start number
---@param interval number?
---@return yue.Emitter
function TaskGroup:alloc(start, interval) end

---A group of up to `max` tasks, whose times are up to `max_interval` seconds. The same name returns the same group.
---@param name string
---@param max integer
---@param max_interval number Seconds.
---@param resolution number Seconds.
---@return yue.TaskGroup
function yue.taskgrp(name, max, max_interval, resolution) end

-- -- Memory of all threads -------------------------------------------------------------------------------------------

---Structs of C in memory that all threads see: `yue.shared.name = { declaration, init }` creates one, and
---`yue.shared.name` is a reference to it.
---@type table<string, any>
yue.shared = {}

return yue
