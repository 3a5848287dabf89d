--! exit: 1
--! stderr: syntax.lua:4:
-- A script that cannot be compiled says where.
this is no Lua
