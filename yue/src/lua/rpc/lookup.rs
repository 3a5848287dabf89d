//! Lookup of the function that a request names.
//!
//! A namespace is a Lua list of layers (tables). Every access is raw, so that no metatable can expose anything else.

use crate::lua::host::log;
use crate::lua::native::{native, register};
use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::c_int;
use yue_luajit::{Stack, ffi};
use yue_scheduler::LogLevel;

/// Longer names are in no namespace; it bounds the work of a lookup.
const NAME_MAX: usize = 1024;

/// The maximum number of module names that get a warning; a program has no more by mistake.
const MODULE_WARNINGS_MAX: usize = 64;

/// Pushes the function that `name` denotes in the layers at the registry reference; or pushes nothing. May raise.
pub(crate) fn push_method(stack: Stack<'_>, layers: c_int, name: &[u8]) -> Lookup {
    let state = stack.raw();
    let mut outcome = Lookup::Missing;
    if name.len() > NAME_MAX {
        return outcome;
    }
    // SAFETY: `Stack` promises a valid state where errors may be raised; every access is raw.
    unsafe {
        ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, layers.into());
        let count = ffi::lua_objlen(state, -1) as i64;
        for index in (1..=count).rev() {
            ffi::lua_rawgeti(state, -1, index);
            match walk(stack, name) {
                Lookup::Found => {
                    ffi::lua_replace(state, 1);
                    ffi::lua_settop(state, 1);
                    return Lookup::Found;
                }
                Lookup::Missing => {}
                other => outcome = other,
            }
            ffi::lua_settop(state, 1);
        }
        ffi::lua_settop(state, 0);
    }
    outcome
}

/// Replaces the table on top by the value of the dotted name in it, if that is a function.
///
/// A table in a table may be a loaded module: in a file of symbols, `os = require 'os'` makes a global of it. That does
/// not mean that strangers may call its functions.
///
/// # Safety
/// A state where errors may be raised, with a value on top and room for two.
unsafe fn walk(stack: Stack<'_>, name: &[u8]) -> Lookup {
    let state = stack.raw();
    let mut at = 0;
    // SAFETY: the caller's promise.
    unsafe {
        for segment in name.split(|byte| *byte == b'.') {
            if ffi::lua_type(state, -1) != ffi::LUA_TTABLE || segment.first() == Some(&b'_') {
                return Lookup::Missing;
            }
            if at > 0 && stack.is_loaded_module(-1) {
                return Lookup::Module { name_end: at - 1 };
            }
            stack.push_bytes(segment);
            ffi::lua_rawget(state, -2);
            ffi::lua_replace(state, -2);
            at += segment.len() + 1;
        }
        match ffi::lua_type(state, -1) {
            ffi::LUA_TFUNCTION => Lookup::Found,
            _ => Lookup::Missing,
        }
    }
}

/// The result of looking up the function of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    Found,
    Missing,
    /// The name leads into a module; this many bytes of the name are the module's.
    Module {
        name_end: usize,
    },
    BadArguments,
}

thread_local! {
    /// Names of modules in namespaces that a peer tried to call.
    static WARNED: RefCell<HashSet<Vec<u8>>> = RefCell::default();
}

/// Warns, once for each name, that a module in a namespace cannot be called from outside.
#[cold]
pub(crate) fn warn_of_module(name: &[u8]) {
    let is_new = WARNED.with_borrow_mut(|warned| {
        warned.len() < MODULE_WARNINGS_MAX && warned.insert(name.to_vec())
    });
    if is_new {
        let name = String::from_utf8_lossy(name);
        let text = format!(
            "`{name}` in a namespace is a loaded module, which cannot be called from outside; put the functions that \
             may be called into a table of their own"
        );
        log::write(LogLevel::Warn, text.as_bytes());
    }
}

native! {
    /// Warns that a global of a file of symbols is a module.
    WarnOfModule = "warn_of_module", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(name) -> () {
        warn_of_module(name);
        Ok(())
    }
}

/// Drops this file's state at the end of the loop.
pub(crate) fn clear() {
    WARNED.take();
}

/// Adds the native to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; WarnOfModule);
}
