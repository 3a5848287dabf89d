-- The admin endpoint of this process.
local admin = {}

--- The number of this process.
function admin.pid()
  local file = assert(io.open '/proc/self/stat')
  local pid = file:read('*l'):match '^%d+'
  file:close()
  return tonumber(pid)
end

function admin.path() return ('%s/yue/%d.sock'):format(os.getenv 'XDG_RUNTIME_DIR', admin.pid()) end

--- Its procedures.
function admin.open() return yue.open('unix://' .. admin.path(), { no_cache = true, timeout = 60 }, nil) end

return admin
