-- Sends mail through a mail server (SMTP submission, RFC 6409), with STARTTLS and a login.
--
--   local mail = require 'mail'
--   mail.send {
--     server = 'tcp://mail.example.org:587', user = 'app', password = os.getenv 'MAIL_PASSWORD',
--     from = 'App <app@example.org>', to = { 'frodo@example.org' }, subject = 'Hello',
--     text = 'Your order is on its way.',
--   }
--
-- The connection is encrypted (`tls://` for port 465, else STARTTLS), unless `plain = true`: for a server on this
-- machine.
local yue = require 'yue'

local mail = {}

local function fail(text, ...)
  error(yue.errors.RuntimeError.new('mail: ' .. text:format(...)), 0)
end

--- Reads a reply: the lines of one code. Raises unless the code begins with the digit.
local function expect(stream, digit, what)
  local lines = {}
  while true do
    local line = stream:line() or fail('the server closed the connection (%s)', what)
    local code, more, text = line:match '^(%d%d%d)([ -]?)(.*)$'
    if not code then fail('this is no mail server: %s', line) end
    lines[#lines + 1] = text
    if more ~= '-' then
      if code:sub(1, 1) ~= digit then
        local e = yue.errors.RuntimeError.new(('mail: %s: %s %s'):format(what, code, table.concat(lines, ' ')))
        -- A code of 4xx is a fault that passes: send it again later.
        e.code, e.retryable = tonumber(code), code:sub(1, 1) == '4'
        error(e, 0)
      end
      return lines
    end
    if #lines > 100 then fail 'the reply of the server has no end' end
  end
end

local function command(stream, digit, what, ...)
  stream:write(what, ...)
  stream:write '\r\n'
  return expect(stream, digit, what)
end

--- The address in `Frodo <frodo@example.org>`. A line break would be another command.
local function address_of(text)
  local address = text:match '<([^<>]*)>%s*$' or text
  if not address:find '^[^%s<>]+@[^%s<>]+$' then fail('this is not an address: %s', text) end
  return address
end

--- A header's text, in ASCII (RFC 2047).
local function header(name, text)
  if text:find '[\r\n%z]' then fail('the header %s has a line break', name) end
  if not text:find '[\128-\255]' then return ('%s: %s\r\n'):format(name, text) end
  local words, at = {}, 1
  while at <= #text do
    local stop = math.min(at + 41, #text)
    -- No character of UTF-8 is divided.
    while stop < #text and text:byte(stop + 1) >= 128 and text:byte(stop + 1) < 192 do stop = stop - 1 end
    words[#words + 1] = '=?UTF-8?B?' .. yue.crypto.base64(text:sub(at, stop)) .. '?='
    at = stop + 1
  end
  return ('%s: %s\r\n'):format(name, table.concat(words, '\r\n '))
end

--- A named address: the name may have any letters.
local function address_header(name, texts)
  local parts = {}
  for i, text in ipairs(texts) do
    local label = text:match '^%s*(.-)%s*<'
    local address = '<' .. address_of(text) .. '>'
    if label and label ~= '' then
      label = header('', label):sub(3, -3)
      if not label:find '^=%?' then label = '"' .. label:gsub('[\\"]', '\\%0') .. '"' end
      address = label .. ' ' .. address
    end
    parts[i] = address
  end
  return ('%s: %s\r\n'):format(name, table.concat(parts, ',\r\n '))
end

local function compose(m, to)
  local host = address_of(m.from):match '@(.*)$'
  local id = yue.crypto.hex(yue.crypto.random(16))
  local parts = {
    address_header('From', { m.from }), address_header('To', to), header('Subject', m.subject or ''),
    header('Date', os.date('!%a, %d %b %Y %H:%M:%S +0000')), header('Message-ID', ('<%s@%s>'):format(id, host)),
    'MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n',
  }
  -- Base64 has no line that begins with a dot, which would end the mail.
  for line in yue.crypto.base64(m.text or ''):gmatch(('.'):rep(76, '?') .. '?') do
    if line ~= '' then parts[#parts + 1] = line .. '\r\n' end
  end
  return table.concat(parts)
end

--- Sends one mail. Raises unless the server has taken it for all receivers.
function mail.send(m)
  local to = type(m.to) == 'table' and m.to or { m.to }
  local from, receivers = address_of(m.from), {}
  for i, receiver in ipairs(to) do receivers[i] = address_of(receiver) end
  if #receivers == 0 then fail 'nobody is to receive it' end
  local text = compose(m, to)
  local stream = yue.net.connect(m.server, { timeout = m.timeout or 60, ca = m.server:find '^tls:' and m.ca or nil })
  local ok, e = pcall(function()
    expect(stream, '2', 'greeting')
    local hello = 'EHLO ' .. (m.host or 'localhost')
    local offers = command(stream, '2', hello)
    if not m.server:find '^tls:' and not m.plain then
      command(stream, '2', 'STARTTLS')
      stream:starttls { ca = m.ca }
      offers = command(stream, '2', hello)
    end
    if m.user then
      if m.plain then fail 'a password is not sent without TLS' end
      if not table.concat(offers, '\n'):upper():find 'AUTH[^\n]* PLAIN' then fail 'the server takes no AUTH PLAIN' end
      stream:write('AUTH PLAIN ', yue.crypto.base64('\0' .. m.user .. '\0' .. m.password), '\r\n')
      expect(stream, '2', 'AUTH PLAIN')
    end
    command(stream, '2', 'MAIL FROM:<' .. from .. '>')
    for _, receiver in ipairs(receivers) do command(stream, '2', 'RCPT TO:<' .. receiver .. '>') end
    command(stream, '3', 'DATA')
    stream:write(text, '.\r\n')
    expect(stream, '2', 'the mail')
    pcall(command, stream, '2', 'QUIT')
  end)
  stream:close()
  if not ok then error(e, 0) end
end

return mail
