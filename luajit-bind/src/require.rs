//! `require` for fibers.
//!
//! A module's loader may suspend. A second fiber that requires the same module must then wait. A fiber that requires a
//! module which it is loading itself, directly or by waiting for a fiber that waits for it, gets the value that the
//! module has published in `package.loaded` so far, as in Lua; if there is none, it has found a loop, which is an
//! error.
//!
//! The Lua part below is the new `require`, which behaves like LuaJIT's and also calls `begin` and `finish`. One table,
//! in the VM, records which fiber loads which module and which fibers wait. All of it runs on the loop's thread.
//!
//! The table `yue.require` in the registry is for a layer above that keeps several versions of modules. It may set the
//! fields `find(name)`, which returns whether it knows the module's value, and that value; `load(name, loader)`, called
//! before a loader runs; and `done(name, loader)`, called when it has returned. It finds a loader by `search(name)`.

use crate::function::{Error, Frame, Function};
use crate::loading::{FiberKey, Load};
use crate::shim;
use crate::stack::Stack;
use crate::vm::{Vm, VmInner};
use mlua_sys as ffi;
use std::ffi::c_int;
use yue_scheduler::{park, prepare_park};

const SOURCE: &str = r#"
local loaded, package, begin, finish, run, keep, hooks = ...
local pcall, error, type, concat, getinfo = pcall, error, type, table.concat, debug.getinfo

-- The value of `package.loaded` while a module is being loaded and has published nothing.
local unpublished = newproxy() -- no table, which `module` would take for the module
-- Modules that are being loaded, published or not; also those whose loader has raised, until the next `require`.
local busy = {}

-- Returns the loader, or nil, the message, and its level: 0 no position, 2 the caller of `load`'s caller.
local function find(name)
  local loaders = package.loaders
  if type(loaders) ~= 'table' then return nil, "'package.loaders' must be a table", 2 end
  local tried = {}
  for i = 1, #loaders do
    local ok, loader = pcall(loaders[i], name)
    if not ok then return nil, loader, 0 end
    if type(loader) == 'function' then return loader end
    if type(loader) == 'string' then tried[#tried + 1] = loader end
  end
  return nil, "module '" .. name .. "' not found:" .. concat(tried), 2
end

-- Runs the loader where its errors pass with all their frames: the call is not protected.
local function load(name, loader)
  -- C modules may keep the Lua state that they are loaded on, and call back on it later.
  if getinfo(loader, 'S').what == 'C' then keep() end
  busy[name], loaded[name] = true, unpublished
  local note = hooks.load
  if note then note(name, loader) end
  local result = run(loader, name)
  busy[name] = nil
  if note then hooks.done(name, loader) end
  if result ~= nil then
    loaded[name] = result
  elseif loaded[name] == unpublished then
    loaded[name] = true
  end
  return loaded[name]
end

hooks.search = find

return function(name)
  local versions = hooks.find
  if versions then
    local known, value = versions(name)
    if known then return value end
  end
  local module = loaded[name]
  if module and not busy[name] then
    return module
  end
  local mine
  name, mine = begin(name) -- waits while another fiber loads it; not `mine`: that would never end
  module = loaded[name]
  if not mine then
    if module == unpublished then error("loop while loading module '" .. name .. "'", 2) end
    if module then return module end
    -- It has removed its own entry: as in Lua, it is loaded once more.
    local loader, message, level = find(name)
    if not loader then error(message, level) end
    return load(name, loader)
  end
  if busy[name] then -- its loader has raised the last time
    busy[name], loaded[name], module = nil, nil, nil
  end
  if module then
    finish(name)
    return module
  end
  local loader, message, level = find(name)
  if not loader then
    finish(name)
    error(message, level)
  end
  module = load(name, loader)
  finish(name)
  return module
end
"#;

/// Replaces `require` in a fresh VM. Raises.
pub(crate) fn install(stack: Stack<'_>) {
    let state = stack.raw();
    // SAFETY: a valid stack where errors may be raised.
    unsafe {
        let name = c"=require".as_ptr();
        if ffi::luaL_loadbufferx(
            state,
            SOURCE.as_ptr().cast(),
            SOURCE.len(),
            name,
            c"t".as_ptr(),
        ) != ffi::LUA_OK
        {
            ffi::lua_error(state);
        }
        ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, c"_LOADED".as_ptr());
        ffi::lua_getfield(state, ffi::LUA_GLOBALSINDEX, c"package".as_ptr());
        ffi::lua_pushcclosure(state, crate::function::entry::<Begin>, 0);
        ffi::lua_pushcclosure(state, crate::function::entry::<Finish>, 0);
        ffi::lua_pushcclosure(state, run_loader, 0);
        ffi::lua_pushcclosure(state, keep_state, 0);
        ffi::lua_createtable(state, 0, 4);
        ffi::lua_pushvalue(state, -1);
        ffi::lua_setfield(state, ffi::LUA_REGISTRYINDEX, c"yue.require".as_ptr());
        ffi::lua_call(state, 7, 1);
        ffi::lua_setfield(state, ffi::LUA_GLOBALSINDEX, c"require".as_ptr());
    }
}

/// `keep()`: anchors the running state for as long as the VM lives. It may still be lent to other fibers.
unsafe extern "C-unwind" fn keep_state(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this; it may raise (no memory), with no destructor pending.
    unsafe {
        ffi::lua_pushthread(state);
        ffi::lua_pushboolean(state, 1);
        ffi::lua_rawset(state, ffi::LUA_REGISTRYINDEX);
    }
    0
}

/// `run(loader, name)`: returns the loader's first result. If it raises, the module is no longer being loaded.
unsafe extern "C-unwind" fn run_loader(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this with a function and a string, which stays on this function's stack while the loader runs:
    // the loader gets copies. A Lua error unwinds through here as a foreign exception, and drops the guard.
    unsafe {
        shim::yue_shim_check_stack(state);
        let name = Stack::new(state).bytes(2);
        ffi::lua_pushvalue(state, 1);
        ffi::lua_pushvalue(state, 2);
        let guard = FailedOnDrop { state, name };
        ffi::lua_call(state, 1, 1);
        std::mem::forget(guard);
    }
    1
}

/// The loader of a module has raised: the fibers that wait for the module try it themselves.
struct FailedOnDrop<'a> {
    state: *mut ffi::lua_State,
    name: &'a [u8],
}

impl Drop for FailedOnDrop<'_> {
    fn drop(&mut self) {
        // SAFETY: the state is valid; no Lua is called.
        let vm = Vm::current().or_else(|| unsafe { Vm::of(self.state) });
        if let Some(vm) = vm {
            finish(&vm.0, self.name);
        }
    }
}

/// The module is loaded, or cannot be: waiting fibers continue.
fn finish(vm: &VmInner, name: &[u8]) {
    let load = vm.loading.borrow_mut().modules.remove(name);
    for waiter in load.into_iter().flat_map(|load| load.waiters) {
        waiter.wake();
    }
}

fn with_loading<R>(frame: Frame<'_>, f: impl FnOnce(&VmInner) -> R) -> Result<R, Error> {
    // SAFETY: the frame's state is valid.
    let vm = Vm::current().or_else(|| unsafe { Vm::of(frame.raw()) });
    vm.map(|vm| f(&vm.0))
        .ok_or(Error::Text("this VM is closing".into()))
}

fn this_fiber() -> FiberKey {
    // SAFETY: reads a thread-local. Outside fibers it is null, which is one key: nothing else runs meanwhile.
    unsafe { shim::yue_shim_current() }.addr()
}

/// `begin(name)` -> name, mine: with `mine` the caller may load the module now, or find it loaded. Without it, the
/// caller already loads the module, or waits for a fiber that does.
struct Begin;

impl Function for Begin {
    const NAME: &'static str = "require";
    const SUSPENDS: bool = false;
    type Input<'a> = &'a [u8];
    type Output = bool;

    fn read<'a>(arguments: Stack<'a>) -> &'a [u8] {
        arguments.bytes(1)
    }

    fn run(frame: Frame<'_>, name: &[u8]) -> Result<bool, Error> {
        let fiber = this_fiber();
        loop {
            let turn = with_loading(frame, |vm| {
                let mut loading = vm.loading.borrow_mut();
                if loading.is_loop(fiber, name) {
                    return Ok(Some(false));
                }
                let Some(load) = loading.modules.get_mut(name) else {
                    let load = Load {
                        by: fiber,
                        waiters: Vec::new(),
                    };
                    loading.modules.insert(name.to_vec(), load);
                    return Ok(Some(true));
                };
                crate::function::may_suspend()?;
                load.waiters.push(prepare_park());
                loading.waiting.insert(fiber, name.to_vec());
                Ok::<_, Error>(None)
            })??;
            if let Some(mine) = turn {
                return Ok(mine);
            }
            let waited = park("require");
            with_loading(frame, |vm| vm.loading.borrow_mut().waiting.remove(&fiber))?;
            waited?;
        }
    }

    fn push(mine: &mut bool, results: Stack<'_>) -> c_int {
        results.push_copy(1);
        results.push_boolean(*mine);
        2
    }
}

/// `finish(name)`: waiting fibers continue.
struct Finish;

impl Function for Finish {
    const NAME: &'static str = "require";
    const SUSPENDS: bool = false;
    type Input<'a> = &'a [u8];
    type Output = ();

    fn read<'a>(arguments: Stack<'a>) -> &'a [u8] {
        arguments.bytes(1)
    }

    fn run(frame: Frame<'_>, name: &[u8]) -> Result<(), Error> {
        with_loading(frame, |vm| finish(vm, name))
    }

    fn push(_: &mut (), _: Stack<'_>) -> c_int {
        0
    }
}
