-- A link: one socket, with what belongs to it: output, calls that wait, and functions that crossed. All of it ends with
-- the socket.
--
-- A function crosses as an ext value 0x59 of 8 bytes: whose it is (1: the sender's, 2: the receiver's), and its id.
local mp = require 'MessagePack'
local values = require 'yue_client.values'

local K = {}
local errors, raise, remotes = values.errors, values.raise, values.remotes
local encode, encode_list, plain, big_endian = values.encode, values.encode_list, values.plain, values.big_endian
local unpack, floor, concat = unpack or table.unpack, math.floor, table.concat

local RELEASES_PER_MESSAGE = 32

-- Functions of the peer -----------------------------------------------------------------------------------------------

-- Only a userdata has a finalizer in Lua 5.1, and newproxy makes one. The finalizer only records.
local function new_remote(link, raw)
  local proxy = newproxy(true)
  local meta, record = getmetatable(proxy), { link = link, raw = raw, crossings = 1 }
  meta.__call = function(_, ...) return link.client:invoke(proxy, ...) end
  meta.__tostring = function() return 'function of ' .. link.client.address end
  meta.__gc = function() link.dropped[#link.dropped + 1] = record end
  remotes[proxy] = record
  return proxy
end

local function import(link, raw)
  local proxy = link.imports[raw]
  if proxy then
    remotes[proxy].crossings = remotes[proxy].crossings + 1
  else
    proxy = new_remote(link, raw)
    link.imports[raw] = proxy
  end
  return proxy
end

local function stale()
  local text = 'the function belonged to a connection that is lost; get it from the peer again'
  return errors.ConnectionLostError.new(text, nil, true)
end

-- The bytes of a function in a message that leaves now.
local function reference(link, fn)
  local record = remotes[fn]
  if record then
    if record.link == link then return '\215\89\2' .. record.raw end
    if record.link.client == link.client then error(stale(), 0) end
    raise('ArgumentError', 'a function of another connection cannot be passed on; wrap it in one of yours')
  end
  if not link.is_yue then raise('ArgumentError', 'cannot send a function: the peer is not a yue peer') end
  local id = link.export_ids[fn]
  if not id then
    if link.exported >= link.client.options.references_max then
      raise('MessageRefusedError', 'the peer holds ' .. link.exported .. ' functions already, the limit')
    end
    id, link.next_export, link.exported = link.next_export, link.next_export + 1, link.exported + 1
    link.export_ids[fn], link.exports[id] = id, { fn = fn, crossings = 0 }
  end
  link.exports[id].crossings = link.exports[id].crossings + 1
  return '\215\89\1' .. big_endian(id, 7)
end

local function with_references(link, pieces)
  local out = {}
  for i, piece in ipairs(pieces) do out[i] = type(piece) == 'table' and reference(link, piece[1]) or piece end
  return concat(out)
end

local function names_remotes(pieces)
  for _, piece in ipairs(pieces) do
    if type(piece) == 'table' and remotes[piece[1]] then return true end
  end
  return false
end

local function handle_release(link, releases)
  for _, release in ipairs(type(releases) == 'table' and releases or {}) do
    local id, count = unpack(type(release) == 'table' and release or {})
    local export = type(count) == 'number' and count >= 1 and link.exports[id]
    if export then
      export.crossings = export.crossings - count
      if export.crossings <= 0 then
        link.exports[id], link.export_ids[export.fn], link.exported = nil, nil, link.exported - 1
      end
    end
  end
end

-- Decodes one value, with a link's functions in place of references. Ext values are made by the codec's own hook.
local function decode(link, cursor)
  local before = mp.build_ext
  mp.build_ext = function(code, data)
    local owner = link.is_yue and code == 89 and #data == 8 and data:byte(1)
    if owner == 1 then return import(link, data:sub(2)) end
    if owner == 2 then
      local export = link.exports[values.number_of(data:sub(2))]
      return export and export.fn or function() raise('NoMethodError', 'the function was collected') end
    end
    return setmetatable({ code = code, data = data }, values.Ext)
  end
  local ok, value = pcall(mp.unpack_cursor, cursor)
  mp.build_ext = before
  if not ok then error(value, 0) end
  return value
end

-- Links ---------------------------------------------------------------------------------------------------------------

local function new_link(client, handle)
  return {
    client = client, socket = handle, is_yue = false,
    output = {}, output_bytes = 0, sending = '', sent = 0,
    input = {}, input_bytes = 0, wanted = 1, scan = { start = 1, at = 1, left = { 1 } },
    calls = {}, calls_count = 0, next_id = 0,
    running = 0, waiting = {}, waiting_bytes = 0, -- Requests of the peer; the running ones include those that wait.
    exports = {}, export_ids = {}, exported = 0,
    next_export = floor(client:random() * 2 ^ 24) * 2 ^ 24 + floor(client:random() * 2 ^ 24),
    imports = setmetatable({}, { __mode = 'v' }), dropped = {},
  }
end

local function put(link, message)
  link.output[#link.output + 1] = message
  link.output_bytes = link.output_bytes + #message
end

local function queued(link) return link.output_bytes + #link.sending - link.sent end

local function respond(link, msgid, n, ...)
  local pieces, bytes = {}, 0
  if n == 1 then encode(pieces, (...), 'the result', 0, {})
  elseif n == 0 and not link.is_yue then pieces[1] = '\192'
  else pieces, bytes = encode_list('results', n, ...) end
  local body = with_references(link, pieces)
  if #body > link.client.options.message_max then
    raise('MessageTooLargeError', 'the results have ' .. bytes .. ' bytes')
  end
  local counted = n ~= 1 and link.is_yue
  put(link, (counted and '\149' or '\148') .. '\1\206' .. big_endian(msgid, 4) .. '\192' .. body ..
    (counted and plain(n) or ''))
end

local function respond_error(link, msgid, e, traceback)
  local ok, body = pcall(plain, values.error_to_wire(e, traceback))
  if not ok then -- Its value cannot be sent.
    body = plain(values.error_to_wire(errors.RuntimeError.new(values.is_error(e) and e.msg or tostring(e))))
  end
  put(link, '\148\1\206' .. big_endian(msgid, 4) .. body .. '\192')
end

local function notify_control(link, name, ...)
  local params = encode_list('params', select('#', ...), ...)
  put(link, '\147\2' .. plain(name) .. concat(params))
end

local function send_releases(link)
  -- A call that is held may name a function whose last proxy was collected: the release must not overtake it.
  if #link.dropped == 0 or link.client:holds_remotes() then return end
  local dropped = link.dropped
  link.dropped = {}
  for start = 1, #dropped, RELEASES_PER_MESSAGE do
    local last = math.min(start + RELEASES_PER_MESSAGE - 1, #dropped)
    local out = { '\147\2' .. plain '$yue/release' .. '\145' }
    values.put_header(out, last - start + 1, 0x90, 0xdc)
    for i = start, last do out[#out + 1] = '\146\207\0' .. dropped[i].raw .. plain(dropped[i].crossings) end
    put(link, concat(out))
  end
end

K.new, K.put, K.queued, K.respond, K.respond_error = new_link, put, queued, respond, respond_error
K.notify_control, K.send_releases, K.handle_release = notify_control, send_releases, handle_release
K.stale, K.with_references, K.names_remotes, K.decode = stale, with_references, names_remotes, decode

return K
