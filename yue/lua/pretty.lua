-- Values for a reader at a console: bounded in depth, width and size; lists of records as tables with aligned columns.
local core, yue, internal = ...
local type, next, rawget, tostring, select, ipairs = type, next, rawget, tostring, select, ipairs
local min, max, floor, huge = math.min, math.max, math.floor, math.huge
local concat, sort, getinfo = table.concat, table.sort, debug.getinfo
local key_text = internal.key_text

-- Bytes of a text, and of a string inside of a table; tables in tables; items of a table; keys that are counted.
local TEXT_MAX, STRING_MAX, DEPTH_MAX, ITEMS_MAX, KEYS_MAX = 64 * 1024, 2000, 6, 200, 20000
-- Tables with columns: columns at most, the width of a cell, the rows whose fields are looked at.
local COLUMNS_MAX, CELL_MAX = 12, 40

--- Columns that a text takes, if each character takes one.
local function width_of(text)
  return #text - select(2, text:gsub('[\128-\191]', ''))
end

--- The text up to `bytes`, in whole characters.
local function cut(text, bytes)
  while bytes > 0 and text:find('^[\128-\191]', bytes + 1) do bytes = bytes - 1 end
  return text:sub(1, bytes)
end

local function function_text(fn)
  local info = getinfo(fn, 'S')
  if info.what == 'C' then return tostring(fn) end
  if info.short_src:find('^%[yue%]/') then return 'function' end
  return ('function: %s:%d'):format(info.short_src, info.linedefined)
end

--- The text of a value whose contents are not shown; nil for the other tables. `texts` keeps the text of each object,
--- so that a `__tostring` runs once.
local function leaf_text(value, texts)
  if type(value) == 'function' then return function_text(value) end
  if type(value) == 'string' then
    if #value <= STRING_MAX then return internal.leaf_text(value) end
    return internal.leaf_text(cut(value, STRING_MAX)) .. (' … (%d bytes)'):format(#value)
  end
  if type(value) ~= 'table' then return internal.leaf_text(value) end
  local text = texts[value]
  if text == nil then
    text = internal.leaf_text(value) or false
    texts[value] = text
  end
  return text or nil
end

--- The keys of a table behind those of its list of `count` items, sorted; and whether there are more.
local function keys_of(value, count, limit)
  local keys, looked = {}, 0
  for key in next, value do
    if not (type(key) == 'number' and key >= 1 and key <= count and key % 1 == 0) then keys[#keys + 1] = key end
    looked = looked + 1
    if #keys > limit or looked > KEYS_MAX + count then return keys, true end
  end
  sort(keys, function(a, b)
    local first, second = type(a), type(b)
    if first ~= second then return first < second end
    if first == 'number' or first == 'string' then return a < b end
    return internal.to_text(a) < internal.to_text(b)
  end)
  return keys, false
end

--- The value on one line of at most `room` columns; nil if it takes more.
local function one_line(value, room, depth, seen, texts)
  local leaf = leaf_text(value, texts)
  if leaf then return not leaf:find('\n', 1, true) and width_of(leaf) <= room and leaf or nil end
  if next(value) == nil then return '{}' end
  if seen[value] then return '<the table above>' end
  if depth >= DEPTH_MAX then return '{…}' end
  seen[value] = true
  local items, left, count = {}, room - 4, #value
  local function add(prefix, item)
    left = left - width_of(prefix) - (#items > 0 and 2 or 0)
    local text = left > 0 and one_line(item, left, depth + 1, seen, texts)
    if not text then return false end
    left = left - width_of(text)
    items[#items + 1] = prefix .. text
    return true
  end
  local fits = true
  for i = 1, count do
    fits = fits and add('', value[i])
    if not fits then break end
  end
  if fits then
    local keys, more = keys_of(value, count, floor(room / 4))
    fits = not more
    for _, key in ipairs(fits and keys or {}) do
      local name = one_line(key, room, DEPTH_MAX, seen, texts)
      fits = fits and name ~= nil and add(key_text(key, name), rawget(value, key))
    end
  end
  seen[value] = nil
  return fits and '{ ' .. concat(items, ', ') .. ' }' or nil
end

local function put(out, text)
  if out.full then return end
  if out.size + #text > TEXT_MAX then
    out.full, text = true, cut(text, TEXT_MAX - out.size)
  end
  out[#out + 1], out.size = text, out.size + #text
end

-- -- Tables with columns ---------------------------------------------------------------------------------------------

-- These come first.
local FIRST = { id = 1, name = 2 }

--- The names of the fields of a list of records, which have no lists or tables inside; nil if it is something else.
local function columns_of(list, count, texts)
  local names, known = {}, {}
  for i = 1, min(count, ITEMS_MAX) do
    local record = list[i]
    if type(record) ~= 'table' or leaf_text(record, texts) or next(record) == nil then return nil end
    for key, value in next, record do
      if type(key) ~= 'string' or not key:find('^[%a_][%w_]*$') then return nil end
      if type(value) == 'table' and not leaf_text(value, texts) then return nil end
      if not known[key] then
        if #names == COLUMNS_MAX then return nil end
        known[key], names[#names + 1] = true, key
      end
    end
  end
  sort(names, function(a, b)
    local first, second = FIRST[a] or huge, FIRST[b] or huge
    if first ~= second then return first < second end
    return a < b
  end)
  return names
end

local function cell(value, texts)
  if value == nil then return '' end
  local text = leaf_text(value, texts)
  if type(value) == 'string' then text = text:match('^"(.*)"') or text end
  text = text:gsub('%c', ' ')
  if width_of(text) <= CELL_MAX then return text end
  local head = text:match('^' .. ('[^\128-\191][\128-\191]*'):rep(CELL_MAX - 1))
  return (head or text:sub(1, CELL_MAX - 1)) .. '…'
end

--- Writes the list as a table, if it is a list of records: returns whether it is one.
local function put_table(out, list, width, texts)
  local count = #list
  if count < 2 or select(2, keys_of(list, count, 0)) then return false end
  local names = columns_of(list, count, texts)
  if not names then return false end
  local columns = { { name = '#', right = true } }
  for _, name in ipairs(names) do columns[#columns + 1] = { name = name, right = true } end
  local rows = min(count, ITEMS_MAX)
  for at, column in ipairs(columns) do
    column.width = width_of(column.name)
    for row = 1, rows do
      local value = at == 1 and row or at > 1 and list[row][column.name]
      if at > 1 then value = rawget(list[row], column.name) end
      if value ~= nil and type(value) ~= 'number' then column.right = false end
      column[row] = cell(value, texts)
      column.width = max(column.width, width_of(column[row]))
    end
  end
  local shown, used = 0, 0
  for at, column in ipairs(columns) do
    used = used + column.width + 2
    if at > 2 and used > width + 2 then break end
    shown = at
  end
  local function put_row(text_of)
    local parts = {}
    for at = 1, shown do
      local column = columns[at]
      local text = text_of(column)
      local space = (' '):rep(column.width - width_of(text))
      parts[at] = column.right and space .. text or text .. space
    end
    put(out, (concat(parts, '  '):gsub(' +$', '')))
  end
  put_row(function(column) return column.name end)
  for row = 1, rows do
    put(out, '\n')
    put_row(function(column) return column[row] end)
  end
  if rows < count then put(out, ('\n… and %d more'):format(count - rows)) end
  if shown < #columns then
    local rest = {}
    for at = shown + 1, #columns do rest[#rest + 1] = columns[at].name end
    put(out, '\n(too wide: ' .. concat(rest, ', ') .. ')')
  end
  return true
end

-- -- Texts -----------------------------------------------------------------------------------------------------------

--- Writes the value; `used` columns of the line are taken already.
local function put_value(out, value, indent, used, depth)
  if out.full then return end
  local line = one_line(value, out.width - used, depth, out.seen, out.texts)
  if line then return put(out, line) end
  local leaf = leaf_text(value, out.texts)
  if leaf then return put(out, leaf) end
  if depth == 0 and put_table(out, value, out.width, out.texts) then return end
  out.seen[value] = true
  local inner, count, items = indent .. '  ', #value, 0
  put(out, '{')
  local function put_item(prefix, item)
    put(out, (items > 0 and ',\n' or '\n') .. inner .. prefix)
    put_value(out, item, inner, #inner + width_of(prefix) + 1, depth + 1)
    items = items + 1
  end
  for i = 1, min(count, ITEMS_MAX) do
    if out.full then break end
    put_item('', value[i])
  end
  local left_out = count - min(count, ITEMS_MAX)
  local keys, more = keys_of(value, count, KEYS_MAX)
  for i, key in ipairs(keys) do
    if out.full then break end
    if i > ITEMS_MAX then
      left_out = left_out + #keys - ITEMS_MAX
      break
    end
    local name = one_line(key, CELL_MAX, DEPTH_MAX, out.seen, out.texts) or '…'
    put_item(key_text(key, name), rawget(value, key))
  end
  if more then
    put(out, ',\n' .. inner .. '… and many more')
  elseif left_out > 0 then
    put(out, (',\n%s… and %d more'):format(inner, left_out))
  end
  put(out, '\n' .. indent .. '}')
  out.seen[value] = nil
end

local function new_text(width)
  return { size = 0, full = false, width = width, seen = {}, texts = {} }
end

local function finish(out)
  if out.full then out[#out + 1] = ('\n… (cut after %d KiB)'):format(TEXT_MAX / 1024) end
  return concat(out)
end

--- The values as text, for a terminal of that width: on one line if they fit.
function internal.pretty_results(width, ...)
  local out = new_text(width)
  local first = ...
  if select('#', ...) == 1 and type(first) == 'table' and not leaf_text(first, out.texts)
    and put_table(out, first, width, out.texts) then
    return finish(out)
  end
  local texts, used = {}, 0
  for i = 1, select('#', ...) do
    local text = one_line((select(i, ...)), width - used, 0, {}, {})
    if not text then break end
    texts[i], used = text, used + width_of(text) + 8
  end
  if #texts == select('#', ...) then return concat(texts, '\t') end
  for i = 1, select('#', ...) do
    if i > 1 then put(out, '\n') end
    put_value(out, (select(i, ...)), '', 0, 0)
  end
  return finish(out)
end

--- A text, which may be cut.
function internal.bounded_text(text)
  if #text <= TEXT_MAX then return text end
  return cut(text, TEXT_MAX) .. ('\n… (cut after %d KiB)'):format(TEXT_MAX / 1024)
end
