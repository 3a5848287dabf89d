-- Checks for test scripts. A check that fails raises, at the line that called it.
local check = { count = 0 }

local function show(value, depth)
  depth = depth or 0
  if type(value) == 'string' then return ('%q'):format(value) end
  if type(value) ~= 'table' or depth > 3 then return tostring(value) end
  local meta = getmetatable(value)
  if type(meta) == 'string' or (meta and meta.__tostring) then return tostring(value) end
  local parts = {}
  for key, item in pairs(value) do parts[#parts + 1] = tostring(key) .. ' = ' .. show(item, depth + 1) end
  return '{ ' .. table.concat(parts, ', ') .. ' }'
end
check.show = show

local function same(a, b)
  if a == b then return true end
  if type(a) ~= 'table' or type(b) ~= 'table' then return false end
  for key, value in pairs(a) do
    if not same(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

--- That both are the same; tables are compared by what they hold.
function check.equal(got, wanted, what)
  check.count = check.count + 1
  if not same(got, wanted) then
    error(('%sgot %s, not %s'):format(what and what .. ': ' or '', show(got), show(wanted)), 2)
  end
end

--- That the value is true, or as good as.
function check.that(value, what)
  check.count = check.count + 1
  if not value then error(what or 'this is not so', 2) end
  return value
end

--- That the text has the part in it (no pattern).
function check.contains(text, part, what)
  check.count = check.count + 1
  if type(text) ~= 'string' or not text:find(part, 1, true) then
    error(('%s%s has no %s in it'):format(what and what .. ': ' or '', show(text), show(part)), 2)
  end
end

--- That `fn(...)` raises an error object of the class, with the part in its message. Returns the error.
function check.raises(class, part, fn, ...)
  check.count = check.count + 1
  local ok, e = pcall(fn, ...)
  if ok then error('no ' .. class .. ' was raised', 2) end
  if type(e) ~= 'table' or type(e.is_a) ~= 'function' then
    error(('no error object was raised, but %s'):format(show(e)), 2)
  end
  if not e:is_a(class) then error(('no %s was raised, but %s'):format(class, tostring(e)), 2) end
  if part and not e.msg:find(part, 1, true) then
    error(('the message of %s has no %q in it'):format(tostring(e), part), 2)
  end
  return e
end

--- That the condition comes true. Waits long, for the machine may be busy; never needs to.
function check.eventually(condition, what)
  check.count = check.count + 1
  for _ = 1, 12000 do
    local value = condition()
    if value then return value end
    yue.sleep(0.005)
  end
  error(what or 'this never came true', 2)
end

--- A listener with these symbols at a port of its own, and the procedures of a new connection to it.
function check.pair(symbols, client_symbols, options)
  local listener = yue.listen('tcp://127.0.0.1:0', symbols)
  options = options or {}
  if client_symbols == nil and options.no_cache == nil then options.no_cache = true end
  return yue.open(listener:addr(), options, client_symbols), listener
end

--- The last line of a script.
function check.done()
  if check.count == 0 then error('nothing was checked', 2) end
  print('checks: ' .. check.count)
end

return check
