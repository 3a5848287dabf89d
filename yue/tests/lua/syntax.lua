--! exit: 1
--! stderr: syntax.lua:4:
-- The error of a script that cannot be compiled names the line.
this is not Lua
