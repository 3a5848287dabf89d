//! A borrowed `lua_State`: loads code onto it, moves values in and out, and starts a fiber with it.
//!
//! While no fiber runs on it, its owner may use it from any code of the loop's thread; nothing here raises a Lua error.

use crate::vm::{Vm, VmError, take_error};
use mlua_sys as ffi;
use std::ffi::{CStr, c_int};
use std::mem::ManuallyDrop;
use std::{fmt, io, slice};
use yue_scheduler::{Builder, JoinHandle, StackClass};

/// The first stack index of values; the handler and the trampoline are below.
pub(crate) const FIRST: c_int = 3;

/// A borrowed `lua_State`, idle or with values on it; dropping it returns it to its VM's pool.
pub struct LuaState {
    vm: ManuallyDrop<Vm>,
    state: *mut ffi::lua_State,
    anchor: c_int,
}

impl Vm {
    /// Borrows a `lua_State` for a fiber.
    ///
    /// # Errors
    /// [`VmError::OutOfMemory`].
    pub fn borrow_state(&self) -> Result<LuaState, VmError> {
        let (state, anchor) = self.take_state()?;
        Ok(LuaState {
            vm: ManuallyDrop::new(self.clone()),
            state,
            anchor,
        })
    }
}

impl LuaState {
    /// The VM that the state belongs to.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// The raw state.
    pub fn raw(&self) -> *mut ffi::lua_State {
        self.state
    }

    /// The stack index of the first value.
    pub fn first(&self) -> c_int {
        FIRST
    }

    /// The number of values on it.
    pub fn count(&self) -> c_int {
        // SAFETY: the state is ours.
        unsafe { ffi::lua_gettop(self.state) - (FIRST - 1) }
    }

    /// The `position`th value (from 1) as a number, if it is one.
    pub fn number(&self, position: c_int) -> Option<f64> {
        let index = FIRST - 1 + position;
        // SAFETY: the state is ours; reading a number raises nothing.
        unsafe {
            (ffi::lua_type(self.state, index) == ffi::LUA_TNUMBER)
                .then(|| ffi::lua_tonumber(self.state, index))
        }
    }

    /// The `position`th value (from 1) as the bytes of a string, if it is one.
    pub fn bytes(&self, position: c_int) -> Option<&[u8]> {
        let index = FIRST - 1 + position;
        // SAFETY: the state is ours; a string is only read, and stays while the stack does not change.
        unsafe {
            if ffi::lua_type(self.state, index) != ffi::LUA_TSTRING {
                return None;
            }
            let mut length = 0;
            let start = ffi::lua_tolstring(self.state, index, &mut length);
            Some(slice::from_raw_parts(start.cast(), length))
        }
    }

    /// Pushes a number. Returns false if there is no room.
    pub fn push_number(&mut self, value: f64) -> bool {
        // SAFETY: the state is ours; growing its stack is protected, and a number allocates nothing.
        unsafe {
            let room = ffi::lua_checkstack(self.state, 1) != 0;
            if room {
                ffi::lua_pushnumber(self.state, value);
            }
            room
        }
    }

    /// Pushes a nil on an empty stack.
    pub(crate) fn push_nil(&mut self) {
        // SAFETY: the state is ours, and an empty stack has room.
        unsafe { ffi::lua_pushnil(self.state) };
    }

    /// Removes all values.
    pub fn clear(&mut self) {
        // SAFETY: the state is ours, and nothing runs on it.
        unsafe { ffi::lua_settop(self.state, FIRST - 1) };
    }

    /// Compiles source text and pushes the function. `name` is its name in messages: `@file` or `=text`.
    ///
    /// # Errors
    /// The compiler's message.
    pub fn load(&mut self, source: &[u8], name: &CStr) -> Result<(), VmError> {
        // SAFETY: loading is protected by itself; "t" forbids bytecode, which can crash the VM.
        unsafe {
            let start = source.as_ptr().cast();
            match ffi::luaL_loadbufferx(
                self.state,
                start,
                source.len(),
                name.as_ptr(),
                c"t".as_ptr(),
            ) {
                ffi::LUA_OK => Ok(()),
                status => Err(take_error(self.state, status)),
            }
        }
    }

    /// Like [`LuaState::load`], for text that may be bytecode.
    ///
    /// # Errors
    /// The compiler's message, or that the bytecode is another LuaJIT's.
    ///
    /// # Safety
    /// Bytecode was made by a LuaJIT of the same build: any other can crash the VM.
    pub unsafe fn load_trusted(&mut self, code: &[u8], name: &CStr) -> Result<(), VmError> {
        let (start, length) = (code.as_ptr().cast(), code.len());
        // SAFETY: loading is protected by itself, and the caller vouches for bytecode.
        unsafe {
            let mode = c"bt".as_ptr();
            match ffi::luaL_loadbufferx(self.state, start, length, name.as_ptr(), mode) {
                ffi::LUA_OK => Ok(()),
                status => Err(take_error(self.state, status)),
            }
        }
    }

    /// Compiles a file (source or bytecode) and pushes the function.
    ///
    /// # Errors
    /// The compiler's message, or that the file cannot be read.
    pub fn load_file(&mut self, path: &CStr) -> Result<(), VmError> {
        // SAFETY: as above.
        unsafe {
            match ffi::luaL_loadfile(self.state, path.as_ptr()) {
                ffi::LUA_OK => Ok(()),
                status => Err(take_error(self.state, status)),
            }
        }
    }

    /// Moves the top `count` values of `from` (a function, then its arguments) onto this stack. Returns false, and
    /// changes nothing, if there is no room. Raises nothing.
    ///
    /// # Safety
    /// `from` is another state of the same VM with that many values.
    pub unsafe fn take_values(&mut self, from: *mut ffi::lua_State, count: c_int) -> bool {
        // SAFETY: the caller's promise; growing the stack is protected by itself.
        unsafe {
            if ffi::lua_checkstack(self.state, count + 1) == 0 {
                return false;
            }
            ffi::lua_xmove(from, self.state, count);
        }
        true
    }

    /// Starts a fiber that calls the function on the stack (below its arguments) and then passes the state with the
    /// outcome to `end`, on that fiber.
    ///
    /// # Errors
    /// If there is no memory for another native stack.
    pub fn spawn(
        self,
        name: Option<&str>,
        end: impl FnOnce(Ended) + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let builder = Builder::new().stack(StackClass::Deep);
        let builder = match name {
            Some(name) => builder.name(name),
            None => builder,
        };
        builder.spawn(move || {
            let mut state = self;
            let outcome = state.attach(|running| running.call());
            end(Ended {
                state,
                ok: outcome.is_ok(),
            });
        })
    }
}

impl Drop for LuaState {
    fn drop(&mut self) {
        self.vm.give_back(self.state, self.anchor);
        // SAFETY: dropped once, here; last, for it may close the VM that owns the state.
        unsafe { ManuallyDrop::drop(&mut self.vm) };
    }
}

impl fmt::Debug for LuaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LuaState")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// A finished call: its results, or the one error value, are on the state's stack from `state.first()` on.
#[derive(Debug)]
pub struct Ended {
    /// The state with the values; dropping it returns it to the pool.
    pub state: LuaState,
    /// Whether the function returned (else it raised).
    pub ok: bool,
}

impl Ended {
    /// The error value as text, if it is a string; for messages.
    pub fn error_text(&mut self) -> String {
        // SAFETY: a failed call leaves one value on top.
        match unsafe { take_error(self.state.state, ffi::LUA_ERRRUN) } {
            VmError::Lua(text) => text,
            other => other.to_string(),
        }
    }
}
