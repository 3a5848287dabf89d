-- The server of a behaviour in a thread, or in a process behind standard input and output.
package.path = (debug.getinfo(1, 'S').source:match '^@(.*/)' or '') .. '?.lua;' .. package.path
local suite = require 'suite'
local endpoints = require 'endpoint'

if yue.mode == 'thread' then
  local behaviour, name = yue.thread.current.name:match '^(.*)@(.*)$'
  endpoints.serve(suite.load(behaviour), 'thread://' .. name)
else
  endpoints.serve(suite.load(arg[1]), 'stdio://')
end
