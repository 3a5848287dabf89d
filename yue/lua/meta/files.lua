---@meta yue.files
-- LuaCATS stubs of `yue`, continued: files. They are never run. docs/src/lua-api.md explains.

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

return yue
