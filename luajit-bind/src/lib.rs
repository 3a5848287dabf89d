//! LuaJIT fibers: one VM per loop, Lua code that blocks anywhere.
//!
//! A [`Vm`] belongs to one loop's thread. A Lua fiber is a native fiber of the scheduler with a borrowed `lua_State`
//! ([`LuaState`]). A function that Lua calls may park the fiber wherever Lua can call a function: inside `pcall`, a
//! metamethod, an iterator, a `table.sort` comparator, a `gsub` callback, a user's coroutine. The native stack is
//! switched under LuaJIT's frames, so Lua never notices.
//!
//! ```
//! use yue_luajit::Vm;
//! use yue_scheduler::{Config, Loop};
//!
//! Loop::new(Config::default()).unwrap().run(|| {
//!     let vm = Vm::new().unwrap();
//!     let mut state = vm.borrow_state().unwrap();
//!     state.load(b"return 20 + 22", c"=example").unwrap();
//!     let fiber = state.spawn(Some("example"), |ended| {
//!         assert!(ended.ok);
//!         assert_eq!(ended.state.number(1), Some(42.0));
//!     });
//!     fiber.unwrap().join().unwrap();
//! });
//! ```
//!
//! ```text
//!   setup.rs     a new VM and its libraries
//!   vm.rs        the VM, its pool of states, protected sections, idle-time collection
//!   lua_state.rs a borrowed lua_State, and starting a fiber with it
//!   fiber.rs     Lua fibers: calls, and the switch hook
//!   function.rs  functions that Lua calls: the three stages
//!   codec/       Lua values <-> msgpack bytes, references
//!   exports.rs   our functions in a peer's hands
//!   require.rs   require among fibers; loading.rs: the modules that are being loaded
//!   json/        Lua values <-> JSON text
//!   interrupt.rs ending Lua code that never waits
//!   arena.rs     the memory of a simulated VM
//!   shim.rs      ../shim/shim.c: what must know LuaJIT from the inside
//! ```

#![warn(missing_docs)]

mod arena;
pub mod codec;
mod exports;
mod fiber;
mod function;
mod interrupt;
mod jit_modules;
pub mod json;
mod loading;
mod lua_state;
mod require;
mod setup;
mod shim;
mod stack;
mod vm;

pub use codec::{Codec, NoReferences, ReferenceTable};
pub use exports::Exports;
pub use fiber::{NATIVE_STACK_RESERVE, Parked, Raised, Running};
pub use function::{
    Error, ErrorForm, Frame, Function, Raise, Refusal, check_native_stack, entry, may_suspend,
    raise, set_error_form, suspending,
};
pub use interrupt::{
    Interrupt, interrupt, interrupt_marked, interrupt_self, mark_fiber, report_steps, traceback,
    turns, watch_steps,
};
pub use lua_state::{Ended, LuaState};
pub use mlua;
pub use mlua_sys as ffi;
pub use setup::{set_exit_hook, set_print_hook};
pub use stack::Stack;
pub use vm::{Vm, VmError};

/// The README, whose example is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
