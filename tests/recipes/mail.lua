-- The recipe `mail`, with a mail server of a page.
local check = require 'check'
local mail = dofile 'examples/recipes/mail.lua'
local folder = os.getenv 'YUE_CERTIFICATES'
local certificate, key = folder .. '/server.pem', folder .. '/server-key.pem'

local received = {}
local users = { ['\0app\0secret'] = true }

--- Serves one connection as a mail server does.
local function serve(stream)
  local secure, user, from, to = false, nil, nil, {}
  stream:write '220 sink ESMTP\r\n'
  for line in stream:lines() do
    local word = line:match '^%a+'
    if word == 'EHLO' then
      stream:write('250-sink\r\n250-', secure and 'AUTH LOGIN PLAIN' or 'STARTTLS', '\r\n250 8BITMIME\r\n')
    elseif word == 'STARTTLS' then
      stream:write '220 go ahead\r\n'
      stream:starttls { cert = certificate, key = key }
      secure = true
    elseif word == 'AUTH' then
      user = users[yue.crypto.base64_decode(line:match '%S+$')]
      stream:write(user and '235 welcome\r\n' or '535 5.7.8 wrong password\r\n')
    elseif word == 'MAIL' then
      from = line:match '<(.*)>'
      stream:write '250 ok\r\n'
    elseif word == 'RCPT' then
      local receiver = line:match '<(.*)>'
      to[#to + 1] = receiver
      stream:write(receiver:find '^nobody' and '550-5.1.1 no such\r\n550 user\r\n'
        or receiver:find '^full' and '452 4.2.2 mailbox full\r\n' or '250 ok\r\n')
    elseif word == 'DATA' then
      stream:write '354 end with a dot\r\n'
      local lines = {}
      for text in stream:lines() do
        if text == '.' then break end
        lines[#lines + 1] = text
      end
      received[#received + 1] = { from = from, to = to, text = table.concat(lines, '\n'), secure = secure, user = user }
      stream:write '250 queued\r\n'
    elseif word == 'QUIT' then
      stream:write '221 bye\r\n'
      return
    end
  end
end

local listener = yue.net.listen('tcp://127.0.0.1:0', serve)
local server = 'tcp://localhost:' .. listener:addr():match '%d+$'

local function message(changes)
  local m = {
    server = server, ca = certificate, user = 'app', password = 'secret', from = 'Die App <app@example.org>',
    to = { 'frodo@example.org', 'Sam "the brave" <sam@example.org>' },
    subject = 'Grüße aus dem Auenland, von allen, die dich lieb haben',
    text = '.\nA line with ümlauts.\n' .. ('x'):rep(2000),
  }
  for name, value in pairs(changes or {}) do m[name] = value end
  return m
end

mail.send(message())
local got = received[1]
check.equal(got.from, 'app@example.org')
check.equal(got.to, { 'frodo@example.org', 'sam@example.org' })
check.that(got.secure and got.user)
local head, body = got.text:match '^(.-)\n\n(.*)$'
check.equal(yue.crypto.base64_decode((body:gsub('\n', ''))), message().text)
check.contains(head, 'From: "Die App" <app@example.org>')
check.contains(head, 'To: <frodo@example.org>,\n "Sam \\"the brave\\"" <sam@example.org>')
local subject = ''
for word in head:match 'Subject: (.-)\n%a':gmatch '=%?UTF%-8%?B%?(.-)%?=' do
  subject = subject .. yue.crypto.base64_decode(word)
end
check.equal(subject, message().subject)
for line in (got.text .. '\n'):gmatch '(.-)\n' do check.that(#line <= 78, line) end
check.contains(head, 'Message-ID: <')

-- Without TLS, to a server of this machine.
mail.send(message { plain = true, user = false, to = 'frodo@example.org', text = '' })
check.equal(received[2].to, { 'frodo@example.org' })
check.that(not received[2].secure)

-- Faults.
local e = check.raises('RuntimeError', '535 5.7.8 wrong password', mail.send, message { password = 'x' })
check.equal({ e.code, e.retryable }, { 535, false })
check.that(not e.msg:find('base64', 1, true) and not tostring(e):find 'AGFwcA')
e = check.raises('RuntimeError', '550 5.1.1 no such user', mail.send, message { to = 'nobody@example.org' })
e = check.raises('RuntimeError', '452 4.2.2 mailbox full', mail.send, message { to = 'full@example.org' })
check.equal(e.retryable, true)
check.raises('RuntimeError', 'not an address', mail.send, message { to = 'frodo' })
check.raises('RuntimeError', 'not an address', mail.send, message { to = 'a@b>\r\nRCPT TO:<c@d' })
check.raises('RuntimeError', 'has a line break', mail.send, message { subject = 'a\r\nBcc: c@d' })
check.raises('RuntimeError', 'nobody is to receive it', mail.send, message { to = {} })
check.raises('RuntimeError', 'not sent without TLS', mail.send, message { plain = true })
local untrusted = message()
untrusted.ca = nil
check.raises('TLSError', 'cannot make a TLS connection', mail.send, untrusted)
check.equal(#received, 2)
listener:close()

-- An answer that somebody inserted before TLS begins.
local injector = yue.net.listen('tcp://127.0.0.1:0', function(stream)
  stream:write '220 x\r\n'
  stream:line()
  stream:write '250 STARTTLS\r\n'
  stream:line()
  stream:write '220 go ahead\r\n250 injected\r\n'
  stream:read()
end)
check.raises('RuntimeError', 'an attacker may have inserted them', mail.send,
  message { server = 'tcp://localhost:' .. injector:addr():match '%d+$' })
injector:close()
check.done()
