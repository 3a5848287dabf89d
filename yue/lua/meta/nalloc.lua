---@meta yue.nalloc
-- LuaCATS stubs of `yue`, continued: nodes. They are never run. docs/src/lua-api/nalloc.md explains.

---@class yue
local yue = {}

---@class yue.NallocOptions
---@field timeout? number Seconds for the whole allocation: 5 on this machine, 30 on a host, 300 on a new one.
---@field lease? number Seconds that a node lives without hearing from its owner (10).
---@field grace? number Seconds between the notice that the owner is gone and the node's end, part of the lease (0).
---@field restart? 'now'|'call'|false What follows the loss of a node: nothing (false).
---@field init? fun(procs: table) Called after every allocation, before other calls go out.
---@field env? table<string, string|number|false> Variables to set; false removes one.
---@field directory? string The folder in which the node's process starts.
---@field cpu? number The cores that the node needs.
---@field memory? number|string The bytes that the node needs; '512M', '2G'.
---@field output? (fun(line: string))|false The receiver of the lines that the node prints (the log).
---@field files? string[] The files, beside the library, that `yue.file` may fetch; `*` stands for a part of a name.
---@field wait? number Seconds to wait in the queue of a target that is full (0).
---@field symbols? table|string What the node may call on its owner.

---@class yue.NallocRequest
---@field id string A name of the allocation.
---@field cpu? number
---@field memory? number Bytes.

---Starts a node that runs `library`, and returns the library's procedures. Without a target the node is a child of this
---process. The node ends with its connection: when it is closed or collected, or when this program ends in any way.
---@param target string|{ command: string[] }|{ address: string }|(fun(need: yue.NallocRequest): any)
---@param library string|function
---@param options? yue.NallocOptions
---@return table procs
---@overload fun(library: string|function, options?: yue.NallocOptions): table
function yue.nalloc(target, library, options) end

---The path of a file that the owner's option `files` lists: in a node, a copy. Elsewhere it is `name` itself.
---@param name string
---@return string path
function yue.file(name) end

---@class yue.Node
---@field binary string The program of this process, which its nodes run.
---@field id? integer In a node: its number at its owner.
---@field target? string In a node: its target.
---@field epoch? integer In a node: 1 for the first node of an allocation, 2 for the next.
---@field started? number In a node: the time at which it got its library, by the owner's wall clock.
---@field owner? table In a node: the procedures of its owner.

---@type yue.Node
yue.node = { binary = '' }

return yue
