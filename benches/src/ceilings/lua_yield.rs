//! Bare Lua coroutines through LuaJIT's C interface: `lua_resume` and `lua_yield`, without a scheduler.
//!
//! One thread, one VM. They cannot yield inside a metamethod, an iterator or `table.sort`; Lua fibers with their own
//! stacks can.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use yue_luajit::ffi::{
    LUA_YIELD, lua_State, lua_checkstack, lua_close, lua_insert, lua_newthread, lua_pushcfunction,
    lua_pushvalue, lua_resume_, lua_setglobal, lua_xmove, lua_yield, luaL_loadstring,
    luaL_newstate, luaL_openlibs,
};

use crate::harness::Problem;

/// The body of each coroutine: it yields forever.
const BODY: &std::ffi::CStr = c"local yield = yield_to_c while true do yield() end";

unsafe extern "C-unwind" fn yield_to_c(state: *mut lua_State) -> c_int {
    // SAFETY: Lua calls this with its own state; the result is returned at once, as `lua_yield` requires.
    unsafe { lua_yield(state, 0) }
}

/// Owns a Lua state and closes it when dropped.
struct Vm(*mut lua_State);

impl Drop for Vm {
    fn drop(&mut self) {
        // SAFETY: the state was opened by `round_robin`, is closed once, and no coroutine of it runs.
        unsafe { lua_close(self.0) };
    }
}

/// Measures `laps` rounds over `coroutines` coroutines, each resumed and suspended once per lap.
///
/// # Errors
///
/// When Lua has no memory, or a coroutine ends.
pub fn round_robin(coroutines: usize, laps: usize) -> Result<Duration, Problem> {
    // SAFETY: opens a new state, or returns null.
    let vm = Vm(unsafe { luaL_newstate() });
    if vm.0.is_null() {
        return Err(Problem::failed("no memory for a Lua state"));
    }
    // SAFETY: the state is open and nothing runs on it.
    unsafe {
        luaL_openlibs(vm.0);
        lua_pushcfunction(vm.0, yield_to_c);
        lua_setglobal(vm.0, c"yield_to_c".as_ptr());
        // One chunk for all coroutines: the JIT compiler would try each of a thousand chunks.
        if luaL_loadstring(vm.0, BODY.as_ptr()) != 0 {
            return Err(Problem::failed("the Lua chunk did not compile"));
        }
    }
    let all = (0..coroutines)
        .map(|_| coroutine(vm.0))
        .collect::<Result<Vec<_>, _>>()?;
    let lap = || {
        for state in &all {
            // SAFETY: the coroutine is new or has yielded with nothing on its stack but its frame.
            let status = unsafe { lua_resume_(*state, 0) };
            if status != LUA_YIELD {
                return Err(Problem::failed("a Lua coroutine ended"));
            }
        }
        Ok(())
    };
    // The first lap starts all coroutines; in the second all have started.
    lap()?;
    lap()?;
    let start = Instant::now();
    for _ in 0..laps {
        lap()?;
    }
    Ok(start.elapsed())
}

/// Creates a coroutine of the chunk on top of the state's stack. It has not started; the stack keeps it alive.
fn coroutine(state: *mut lua_State) -> Result<*mut lua_State, Problem> {
    // SAFETY: the state is open and nothing runs on it; its stack has room for two more values. The chunk moves back to
    // the top: [.. chunk] -> [.. chunk thread] -> [.. thread chunk].
    unsafe {
        if lua_checkstack(state, 2) == 0 {
            return Err(Problem::failed(
                "no room on the Lua stack for so many coroutines",
            ));
        }
        let thread = lua_newthread(state);
        lua_insert(state, -2);
        lua_pushvalue(state, -1);
        lua_xmove(state, thread, 1);
        Ok(thread)
    }
}
