//! Common parts of the tests: a loop with one VM, a few functions that suspend, and running Lua text in fibers.

#![allow(dead_code)] // Each test binary uses a part of it.

pub mod codec;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::{CString, c_int};
use yue_luajit::{Ended, Error, Frame, Function, LuaState, Stack, Vm, ffi};
use yue_scheduler::{Config, LocalWaker, Loop, park, prepare_park, spawn, yield_now};

/// Runs `body` in the main fiber of a fresh loop with a fresh VM that has the test functions as globals.
pub fn with_vm<R: 'static>(body: impl FnOnce(&Vm) -> R + 'static) -> R {
    Loop::new(Config::default()).expect("a loop").run(move || {
        let vm = test_vm();
        body(&vm)
    })
}

/// A VM with `yield()`, `park()`, `wake_one()`, `fail(text)`, `panic()`, `spawn(fn, ...)` as globals.
pub fn test_vm() -> Vm {
    let vm = Vm::new().expect("a VM");
    vm.protect(|stack| {
        // SAFETY: protected; the globals' table is pushed and popped.
        unsafe { yue_luajit::ffi::lua_pushvalue(stack.raw(), yue_luajit::ffi::LUA_GLOBALSINDEX) };
        Vm::register::<Yield>(stack, "yield");
        Vm::register::<Park>(stack, "park");
        Vm::register::<WakeOne>(stack, "wake_one");
        Vm::register::<Fail>(stack, "fail");
        Vm::register::<Panic>(stack, "panic");
        Vm::register::<SpawnFunction>(stack, "spawn");
    })
    .expect("the test functions");
    vm
}

/// A Lua state with the chunk `source` loaded.
pub fn chunk(vm: &Vm, source: &str) -> LuaState {
    let mut state = vm.borrow_state().expect("a state");
    let name = CString::new("=test").expect("no zero");
    state
        .load(source.as_bytes(), &name)
        .unwrap_or_else(|error| panic!("{error} in {source}"));
    state
}

/// Runs `source` in a new fiber and returns its first result (a string), or the error.
pub fn run(vm: &Vm, source: &str) -> Result<String, String> {
    thread_local! {
        static RESULT: RefCell<Option<Result<String, String>>> = const { RefCell::new(None) };
    }
    let source = format!("return tostring(((function(...) {source}\nend)(...)))");
    let fiber = chunk(vm, &source).spawn(Some("test"), |mut ended: Ended| {
        let result = if ended.ok {
            Ok(String::from_utf8_lossy(ended.state.bytes(1).expect("a string")).into_owned())
        } else {
            Err(ended.error_text())
        };
        RESULT.set(Some(result));
    });
    fiber.expect("a fiber").join().expect("the fiber ends");
    RESULT.take().expect("a result")
}

/// Like `run`, for sources that must succeed.
#[track_caller]
pub fn eval(vm: &Vm, source: &str) -> String {
    run(vm, source).unwrap_or_else(|error| panic!("{error}\nin {source}"))
}

/// Like `run`, for sources that must raise.
#[track_caller]
pub fn error_of(vm: &Vm, source: &str) -> String {
    run(vm, source).expect_err("an error was expected")
}

thread_local! {
    static PARKED: RefCell<VecDeque<LocalWaker>> = const { RefCell::new(VecDeque::new()) };
    pub static SWITCHES: Cell<u64> = const { Cell::new(0) };
}

macro_rules! function {
    ($type:ident, $name:literal, |$frame:ident| $body:expr) => {
        struct $type;
        impl Function for $type {
            const NAME: &'static str = $name;
            type Input<'a> = ();
            type Output = ();
            fn read<'a>(_: Stack<'a>) {}
            fn run($frame: Frame<'_>, (): ()) -> Result<(), Error> {
                $body
            }
            fn push(_: &mut (), _: Stack<'_>) -> c_int {
                0
            }
        }
    };
}

function!(Yield, "yield", |_frame| {
    SWITCHES.set(SWITCHES.get() + 1);
    Ok(yield_now()?)
});
function!(Park, "park", |_frame| {
    SWITCHES.set(SWITCHES.get() + 1);
    PARKED.with_borrow_mut(|parked| parked.push_back(prepare_park()));
    Ok(park("test")?)
});
function!(WakeOne, "wake_one", |_frame| {
    if let Some(waker) = PARKED.with_borrow_mut(VecDeque::pop_front) {
        waker.wake();
    }
    Ok(())
});
function!(Panic, "panic", |_frame| panic!("on purpose"));

/// Wakes every fiber that waits in `park()`, and says how many.
pub fn wake_all() -> usize {
    let parked = PARKED.take();
    parked.into_iter().filter(|waker| waker.wake()).count()
}

/// `fail(text)` raises it from Rust.
struct Fail;

impl Function for Fail {
    const NAME: &'static str = "fail";
    type Input<'a> = &'a [u8];
    type Output = ();
    fn read<'a>(arguments: Stack<'a>) -> &'a [u8] {
        arguments.bytes(1)
    }
    fn run(_: Frame<'_>, text: &[u8]) -> Result<(), Error> {
        yield_now()?;
        Err(Error::text(String::from_utf8_lossy(text).into_owned()))
    }
    fn push(_: &mut (), _: Stack<'_>) -> c_int {
        0
    }
}

/// `spawn(fn, ...)` starts a fiber; an error in it fails the test run.
struct SpawnFunction;

impl Function for SpawnFunction {
    const NAME: &'static str = "spawn";
    const SUSPENDS: bool = false;
    type Input<'a> = ();
    type Output = ();
    fn read<'a>(arguments: Stack<'a>) {
        // SAFETY: a frame that may raise.
        unsafe { ffi::luaL_checktype(arguments.raw(), 1, ffi::LUA_TFUNCTION) };
    }
    fn run(frame: Frame<'_>, (): ()) -> Result<(), Error> {
        let vm = Vm::current().expect("in a Lua fiber");
        let mut state = vm
            .borrow_state()
            .map_err(|error| Error::text(error.to_string()))?;
        // SAFETY: all arguments of the running function, from its own state.
        assert!(unsafe { state.take_values(frame.raw(), frame.arguments()) });
        let fiber = state.spawn(None, |mut ended| {
            if !ended.ok {
                panic!("{}", ended.error_text());
            }
        });
        drop(fiber.expect("a fiber"));
        Ok(())
    }
    fn push(_: &mut (), _: Stack<'_>) -> c_int {
        0
    }
}

/// Starts `count` native fibers that each yield `times` times, so that every yield of a Lua fiber really switches.
pub fn background(count: usize, times: usize) {
    for _ in 0..count {
        drop(spawn(move || {
            for _ in 0..times {
                let _ = yield_now();
            }
        }));
    }
}
