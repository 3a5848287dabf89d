//! LuaJIT fibers: one VM per loop, Lua code that blocks anywhere
