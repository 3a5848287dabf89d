---@meta yue.sim
-- LuaCATS stubs of `yue`, continued: scenarios of `yue sim`. They are never run. docs/src/lua-api/sim.md explains.

---@class yue
local yue = {}

---The hands of a scenario, which `yue sim FILE` runs; also `require 'yue.sim'`. Elsewhere the functions raise an error.
yue.sim = {}

---Adds a host and starts it. The arguments are those of its program, as text.
---@param name string The name by which other hosts reach it.
---@param code string|fun(...: string) A file, beside the scenario or from the current folder; or a function.
---@param ... any
---@overload fun(options: yue.SimulatedHost)
function yue.sim.host(name, code, ...) end

---@class yue.SimulatedHost
---@field name string The name by which other hosts reach it.
---@field code string|fun(...: string) A file, beside the scenario or from the current folder; or a function.
---@field args? any[] The arguments of its program, as text.
---@field loops? integer The number of its loops; 1 by default.
---@field files? boolean|table<string, string> Contents by path, for its disk. Or whether those beside its script are.

---Returns the address of a host, as text.
---@param name string
---@return string
function yue.sim.address(name) end

---Whether the program of a host runs.
---@param name string
---@return boolean
function yue.sim.running(name) end

---Lets the program of a host fail: it ends then, and the run continues.
---@param name string
function yue.sim.may_fail(name) end

---Lets hosts that are added from now on make a call that leaves the simulation, such as `os.execute`.
---@param call string
function yue.sim.allow(call) end

---Lets no packet through between two hosts.
---@param one string
---@param other string
function yue.sim.partition(one, other) end

---Lets no packet through from one host to another.
---@param from string
---@param to string
function yue.sim.partition_one_way(from, to) end

---Ends the partition of two hosts.
---@param one string
---@param other string
function yue.sim.heal(one, other) end

---Resets the connections between two hosts.
---@param one string
---@param other string
function yue.sim.reset(one, other) end

---Switches a host off.
---@param name string
function yue.sim.crash(name) end

---Starts a host again, after a crash or the end of its program.
---@param name string
function yue.sim.restart(name) end

---Pauses a host.
---@param name string
function yue.sim.freeze(name) end

---Lets a frozen host continue.
---@param name string
function yue.sim.thaw(name) end

---@class yue.Link
---@field latency? number The time that a packet takes, in seconds; 0.0002 by default.
---@field jitter? number The largest additional time of a packet, in seconds.
---@field loss? number The probability that a packet is lost.
---@field duplicate? number The probability that a datagram arrives twice.
---@field reorder? number The probability that later datagrams overtake a datagram.
---@field bandwidth? integer Bytes per second in each direction.

---Sets the link between two hosts; without properties, the one that they had in the beginning.
---@param one string
---@param other string
---@param link yue.Link?
function yue.sim.link(one, other, link) end

---Sets the link between all hosts that have no link of their own; without properties, that of a quiet network.
---@param link yue.Link?
function yue.sim.default_link(link) end

---Lets the faults of a schedule happen: text with a line for each, at their times since the beginning of the run.
---@param text string
function yue.sim.schedule(text) end

---@class yue.NetworkFaults
---@field socket? number The probability that a new socket is refused: too many descriptors.
---@field accept? number The probability that a connection is gone when it is accepted.
---@field send? number The probability that the kernel has no memory for what is sent.

---Lets calls on a host's sockets fail; without `faults`, as seldom as in the beginning.
---@param name string
---@param faults yue.NetworkFaults?
function yue.sim.network_faults(name, faults) end

---Lets a host's clock run faster, or slower if `ppm` is negative, by that many millionths.
---@param name string
---@param ppm number
function yue.sim.drift(name, ppm) end

---Lets reads and writes of a host transfer fewer bytes than they could, with these probabilities.
---@param name string
---@param read number
---@param write number? As `read` by default.
function yue.sim.short_transfers(name, read, write) end

---Lets a host's wall clock jump by that many seconds, back if they are negative.
---@param name string
---@param seconds number
function yue.sim.jump_clock(name, seconds) end

---Sets the space of a host's disk in bytes.
---@param name string
---@param bytes integer
function yue.sim.disk_capacity(name, bytes) end

---@class yue.DiskFaults
---@field open? number The probability that to open or create a file fails with EIO.
---@field read? number The probability that a read fails with EIO.
---@field write? number The probability that a write fails with EIO.
---@field sync? number The probability that a sync fails with EIO, and loses some of what it had to write.
---@field inspect? number The probability that a question for metadata or names fails with EIO.
---@field change? number The probability that a change of names or metadata fails with EIO.
---@field no_space? number The probability that an operation that may take space fails with ENOSPC.
---@field short_read? number The probability that a read returns fewer bytes.
---@field short_write? number The probability that a write takes fewer bytes.

---Lets operations of a host's disk fail; without `faults`, none.
---@param name string
---@param faults yue.DiskFaults?
function yue.sim.disk_faults(name, faults) end

---@class yue.DiskLatency
---@field operation? number The time of every operation, in seconds; 0.00002 by default.
---@field jitter? number The largest additional time of an operation, in seconds; 0.00008 by default.
---@field sync? number The additional time of a sync, in seconds; 0.001 by default.

---Sets the time that operations of a host's disk take; without `latency`, that of the beginning.
---@param name string
---@param latency yue.DiskLatency?
function yue.sim.disk_latency(name, latency) end

---Lets nothing more fit on a host's disk, whatever its space; with `full` false, as much as before.
---@param name string
---@param full boolean? True by default.
function yue.sim.disk_full(name, full) end

---Returns the number of operations that a host's disk has begun.
---@param name string
---@return integer
function yue.sim.disk_operations(name) end

---Lets the `nth` operation from now on a host's disk fail.
---@param name string
---@param nth integer
function yue.sim.fail_at(name, nth) end

---Lets a host crash at the `nth` operation from now on its disk.
---@param name string
---@param nth integer
function yue.sim.crash_at_operation(name, nth) end

---Lets all operations of a host's disk hang.
---@param name string
function yue.sim.freeze_disk(name) end

---Lets a frozen disk continue.
---@param name string
function yue.sim.thaw_disk(name) end

---Returns the contents of a file of a host's disk, or nil if there is none.
---@param name string
---@param path string
---@return string?
function yue.sim.read_file(name, path) end

---Returns the contents of the files of a host's disk by their paths, as its programs see them.
---@param name string
---@param durable boolean? As a crash would leave them that loses everything which was not synced.
---@return table<string, string>
function yue.sim.files(name, durable) end

---Puts a durable file on a host's disk.
---@param name string
---@param path string
---@param text string
function yue.sim.write_file(name, path, text) end

---@class yue.ChaosOptions
---@field seconds? number The time within which all faults begin and end, from now; 30 by default.
---@field hosts? string[] The hosts to which faults happen; all by default.

---Plans random faults, of a level from 1 to 5.
---@param level integer
---@param options yue.ChaosOptions?
function yue.sim.chaos(level, options) end

---Calls `fn` when the run has lasted that many seconds.
---@param seconds number
---@param fn fun()
function yue.sim.at(seconds, fn) end

---Checks that `fn` returns a true value whenever the scenario's state may have changed. `fn` must not wait.
---@param name string
---@param fn fun(): any
function yue.sim.always(name, fn) end

---Checks that `fn` returns a true value at some time within `seconds`. `fn` may wait.
---@param name string
---@param seconds number
---@param fn fun(): any
function yue.sim.eventually(name, seconds, fn) end

---The virtual time since the beginning of the run, in seconds.
---@return number
function yue.sim.now() end

---A choice of the seed: a number from 0 to 1, or a whole one from 1 to `low`, or from `low` to `high`.
---@param low integer?
---@param high integer?
---@return number
function yue.sim.random(low, high) end

---Writes a line into the trace.
---@param text any
function yue.sim.note(text) end

---Ends the run.
function yue.sim.stop() end

---Waits for all that is planned, and ends the run. It is called after the script.
function yue.sim.finish() end

return yue
