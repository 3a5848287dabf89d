//! Natives: the functions of the `core` table, as small types on top of `yue_luajit::Function`.
//!
//! A native has three stages (see `yue_luajit`): it reads its arguments where Lua errors may be raised, works where
//! Rust may panic and the fiber may suspend, and pushes its results where Lua errors may be raised again.

use std::ffi::c_int;
use std::time::Duration;
use yue_luajit::Stack;

/// Longer times are practically endless, and `Duration` cannot hold every number.
const SECONDS_MAX: f64 = 1e9;

/// Seconds from Lua as a duration.
pub(crate) fn seconds(value: f64) -> Duration {
    if value.is_nan() || value <= 0.0 {
        Duration::ZERO
    } else {
        Duration::from_secs_f64(value.min(SECONDS_MAX))
    }
}

/// The results that a native's second stage passes to Lua.
pub(crate) trait Results {
    /// Pushes the results and returns their number. May raise.
    fn push(&mut self, stack: Stack<'_>) -> c_int;
}

impl Results for () {
    fn push(&mut self, _: Stack<'_>) -> c_int {
        0
    }
}

impl Results for bool {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        stack.push_boolean(*self);
        1
    }
}

impl Results for f64 {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        stack.push_number(*self);
        1
    }
}

impl Results for String {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        stack.push_bytes(self.as_bytes());
        1
    }
}

impl Results for Vec<u8> {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        stack.push_bytes(self);
        1
    }
}

impl<T: Results> Results for Option<T> {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        match self {
            Some(value) => value.push(stack),
            None => {
                stack.push_nil();
                1
            }
        }
    }
}

impl<A: Results, B: Results> Results for (A, B) {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        self.0.push(stack) + self.1.push(stack)
    }
}

/// Defines a native: its type, its name, whether it suspends, its input, and its body.
macro_rules! native {
    (
        $(#[$doc:meta])*
        $name:ident = $lua_name:literal, suspends: $suspends:literal;
        read($stack:ident) -> $input:ty { $($read:tt)* }
        run($argument:pat) -> $output:ty { $($run:tt)* }
    ) => {
        $(#[$doc])*
        pub(crate) struct $name;

        impl yue_luajit::Function for $name {
            const NAME: &'static str = $lua_name;
            const SUSPENDS: bool = $suspends;
            type Input<'a> = $input;
            type Output = $output;

            fn read<'a>($stack: yue_luajit::Stack<'a>) -> $input {
                $($read)*
            }

            // Part of the C function's frame: the processor does not predict a return behind a switch.
            #[inline(always)]
            fn run(_: yue_luajit::Frame<'_>, $argument: Self::Input<'_>) -> Result<$output, yue_luajit::Error> {
                $($run)*
            }

            fn push(output: &mut $output, results: yue_luajit::Stack<'_>) -> std::ffi::c_int {
                $crate::lua::native::Results::push(output, results)
            }
        }
    };
}
pub(crate) use native;

/// Registers natives, under their own names, in the table on top of the stack.
macro_rules! register {
    ($stack:expr; $($name:ty),* $(,)?) => {
        $($crate::lua::native::register_one::<$name>($stack);)*
    };
}
pub(crate) use register;

/// Registers one native. May raise.
pub(crate) fn register_one<F: yue_luajit::Function>(stack: Stack<'_>) {
    debug_assert!(
        is_free(stack, F::NAME),
        "two natives have the name {}",
        F::NAME
    );
    yue_luajit::Vm::register::<F>(stack, F::NAME);
}

/// Whether the table on top of the stack has no field of that name. May raise.
fn is_free(stack: Stack<'_>, name: &str) -> bool {
    stack.push_bytes(name.as_bytes());
    // SAFETY: a table is on top, with the name above it; the value takes the name's slot and is popped.
    unsafe {
        yue_luajit::ffi::lua_rawget(stack.raw(), -2);
        let is_free = yue_luajit::ffi::lua_isnil(stack.raw(), -1) != 0;
        yue_luajit::ffi::lua_settop(stack.raw(), -2);
        is_free
    }
}

/// Registers a raw C function in the table on top of the stack.
///
/// # Safety
/// Lua errors may be raised in `stack`, with a table on top.
pub(crate) unsafe fn register_raw(
    stack: Stack<'_>,
    name: &str,
    function: yue_luajit::ffi::lua_CFunction,
) {
    // SAFETY: the caller's promise.
    unsafe {
        stack.push_bytes(name.as_bytes());
        yue_luajit::ffi::lua_pushcclosure(stack.raw(), function, 0);
        yue_luajit::ffi::lua_rawset(stack.raw(), -3);
    }
}
