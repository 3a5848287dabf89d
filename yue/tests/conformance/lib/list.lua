-- Prints lists, one item a line: `transport`, and of those `restarts` (a server's end is noticed), `port` (and its
-- server listens at one), `thread` and `child` (where its server runs); and `behaviour`.
package.path = (debug.getinfo(1, 'S').source:match '^@(.*/)' or '') .. '?.lua;' .. package.path
for _, transport in ipairs(require 'transports') do
  local scheme = transport.scheme
  print('transport ' .. scheme)
  print(transport.server .. ' ' .. scheme)
  if not (transport.lacks and transport.lacks.connection) then
    print('restarts ' .. scheme)
    if transport.address():find ':%d' then print('port ' .. scheme) end
  end
end
for _, section in ipairs(require('suite').sections) do
  for i = 2, #section do print('behaviour ' .. section[i]) end
end
