---@meta yue.reload
-- LuaCATS stubs of `yue`, continued: reloads. They are never run. docs/src/lua-api.md explains.

---@class yue
local yue = {}

---@class yue.ReloadReport
---@field modules string[] The modules, and files of symbols, that were loaded; sorted.
---@field version integer The present version.
---@field fibers table<integer, yue.VersionFibers> By version: the fibers that run it.

---A list of names, at most 100.
---@class yue.VersionFibers: string[]
---@field count integer The number of the fibers.

---`yue.reload([name | list])` loads the modules and files of symbols that have changed, or those of these names, and
---all that depend on them: on all loops and threads, all of them or none. Raises the error of one that fails.
---@class yue.ReloadApi
---@overload fun(names?: string|string[]): yue.ReloadReport
yue.reload = {}

---The fibers that run each version, by its number.
---@return table<integer, yue.VersionFibers>
function yue.reload.versions() end

---Moves the calling fiber to the present version: its `require` returns the new modules. Returns the version.
---@return integer
function yue.reload.advance() end

---@class yue.StateOptions
---@field version? number|string The version of the table's form.
---@field migrate? fun(state: table, version: any): table? Changes the table, or returns its new contents.

---Returns the table of that name: the same one after each reload. The first call makes it by `init()`.
---@param name string
---@param init (table|fun(): table)?
---@param options yue.StateOptions?
---@return table
function yue.state(name, init, options) end

return yue
