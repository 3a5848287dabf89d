---@meta yue.files
-- LuaCATS stubs of `yue`, continued: files and processes. They are never run. docs/src/lua-api.md explains.

---@class yue
local yue = {}

-- -- Files -----------------------------------------------------------------------------------------------------------

---Files and directories. Called, it watches a file, or the files in a directory: the emitter has the events `change`,
---`create`, `remove`, `write`, `attributes` and `lost`, each with the path of the file.
---@overload fun(path: string, events?: string|string[]): yue.Emitter
yue.fs = {}

---The contents of a file.
---@param path string
---@return string
function yue.fs.read(path) end

---Makes `text` the contents of a file, which is created if it is missing.
---@param path string
---@param text string
function yue.fs.write(path, text) end

---Adds `text` at the end of a file, which is created if it is missing.
---@param path string
---@param text string
function yue.fs.append(path, text) end

---Iterates over the lines of a file, without their ends.
---@param path string
---@return fun(): string?
function yue.fs.lines(path) end

---The names in a directory, sorted. With the option `kinds` also the kind of each.
---@param path string
---@param options { kinds: boolean? }?
---@return string[] names
---@return table<string, 'file'|'directory'|'link'|'other'> kinds
function yue.fs.list(path, options) end

---@class yue.FileFacts
---@field kind 'file'|'directory'|'link'|'other'
---@field size integer Bytes.
---@field mode integer The permission bits.
---@field mtime number When the contents were changed: seconds since 1970, as of `yue.time`.
---@field atime number When the contents were read.
---@field ctime number When contents or facts were changed.
---@field uid integer The owner.
---@field gid integer The owner's group.
---@field inode integer
---@field links integer The number of names.

---Facts about a file; nil if there is none. `{ follow = false }` describes a link, not what it leads to.
---@param path string
---@param options { follow: boolean? }?
---@return yue.FileFacts?
function yue.fs.stat(path, options) end

---Whether there is a file or a directory at the path.
---@param path string
---@return boolean
function yue.fs.exists(path) end

---Renames a file or a directory; a file at the new name is replaced in one step.
---@param from string
---@param to string
function yue.fs.rename(from, to) end

---Removes a file or an empty directory; with `recursive` a directory and all that is in it.
---@param path string
---@param options { recursive: boolean? }?
function yue.fs.remove(path, options) end

---Creates a directory; with `parents` those above it too, and it may exist already.
---@param path string
---@param options { parents: boolean? }?
function yue.fs.mkdir(path, options) end

---Creates a directory for temporary files, removed with its contents at the program's end.
---@return string path
function yue.fs.temp() end

-- -- Processes -------------------------------------------------------------------------------------------------------

yue.process = {}

---The command of `yue.process.run`: the program and its arguments as a list, and options.
---@class yue.RunCommand
---@field [integer] string|number
---@field cwd? string The folder in which the program starts.
---@field env? table<string, string|number|false> Variables to set, or with false to remove.
---@field stdin? string The text of the standard input. By default there is none.
---@field timeout? number Seconds; after them the program is killed and a TimeoutError raised.
---@field output_max? integer The most bytes of each output, 16 MiB by default.

---@class yue.RunResult
---@field code? integer The exit code; nil if a signal ended the program.
---@field signal? integer The signal that ended the program.
---@field out string The standard output.
---@field err string The standard error.

---Runs a program to its end. It is killed when the fiber is stopped. No shell reads the command.
---@param command yue.RunCommand
---@return yue.RunResult
function yue.process.run(command) end

---The command of `yue.process.spawn`: the program and its arguments as a list, and options.
---@class yue.SpawnCommand
---@field [integer] string|number
---@field cwd? string The folder in which the program starts.
---@field env? table<string, string|number|false> Variables to set, or with false to remove.
---@field stdin? 'pipe'|'null'|'inherit' By default a pipe.
---@field stdout? 'pipe'|'null'|'inherit' By default a pipe.
---@field stderr? 'pipe'|'null'|'inherit' By default that of this program.

---@class yue.ExitStatus
---@field code? integer The exit code; nil if a signal ended the program.
---@field signal? integer The signal that ended the program.

---Starts a program and returns at once.
---@param command yue.SpawnCommand
---@return yue.Process
function yue.process.spawn(command) end

---@class yue.Reader
local Reader = {}

---The next bytes, as they come; with `count` so many, or fewer at the end; with `'*a'` all. Nil at the end.
---@param count? integer|'*a'
---@return string?
function Reader:read(count) end

---The next line, without its end; nil at the end.
---@return string?
function Reader:line() end

---Iterates over the lines.
---@return fun(): string?
function Reader:lines() end

---The program's standard input. Do not mix it with `io.read`, which has a buffer of its own.
---@type yue.Reader
yue.stdin = {}

---@class yue.Process
---@field pid integer The process id.
---@field out yue.Reader The standard output.
---@field err? yue.Reader The standard error, with `stderr = 'pipe'`.
local Process = {}

---Writes to the standard input; waits while the pipe is full.
---@param text string
function Process:write(text) end

---Ends the standard input: the program reads its end.
function Process:close_stdin() end

---Reads from the standard output: `p.out:read(count)`.
---@param count? integer|'*a'
---@return string?
function Process:read(count) end

---The next line of the standard output, without its end; nil at the end.
---@return string?
function Process:line() end

---Iterates over the lines of the standard output.
---@return fun(): string?
function Process:lines() end

---Sends a signal, SIGKILL by default. Returns whether it was sent: false once the end was waited for.
---@param signal? integer
---@return boolean
function Process:kill(signal) end

---Ends the standard input and waits for the program's end. A `TimeoutError` leaves the program running.
---@param timeout? number Seconds.
---@return yue.ExitStatus
function Process:wait(timeout) end

return yue
