//! Ending Lua code that never waits, from another thread.

mod common;

use common::{error_of, eval, with_vm};
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use yue_luajit::{
    Error, Frame, Function, Interrupt, Stack, Vm, interrupt, interrupt_marked, mark_fiber,
};
use yue_scheduler::yield_now;

/// The time in which a thread must react.
const LONG: Duration = Duration::from_secs(30);

/// One test at a time: they signal threads, and measure nothing.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

static BUSY: AtomicBool = AtomicBool::new(false);
static TOLD: AtomicBool = AtomicBool::new(false);

/// `busy()`: from here on the fiber is to be interrupted.
struct Busy;

impl Function for Busy {
    const NAME: &'static str = "busy";
    const SUSPENDS: bool = false;
    type Input<'a> = ();
    type Output = ();
    fn read<'a>(_: Stack<'a>) {}
    fn run(_: Frame<'_>, (): ()) -> Result<(), Error> {
        BUSY.store(true, Ordering::SeqCst);
        Ok(())
    }
    fn push(_: &mut (), _: Stack<'_>) -> c_int {
        0
    }
}

/// `busy_and_yield()`: as `busy`, but the fiber does not get on until it is interrupted, and then yields before it
/// executes another bytecode.
struct BusyAndYield;

impl Function for BusyAndYield {
    const NAME: &'static str = "busy_and_yield";
    type Input<'a> = ();
    type Output = ();
    fn read<'a>(_: Stack<'a>) {}
    fn run(_: Frame<'_>, (): ()) -> Result<(), Error> {
        TOLD.store(false, Ordering::SeqCst);
        BUSY.store(true, Ordering::SeqCst);
        while !TOLD.load(Ordering::SeqCst) {
            std::hint::spin_loop();
        }
        Ok(yield_now()?)
    }
    fn push(_: &mut (), _: Stack<'_>) -> c_int {
        0
    }
}

/// `mark(number)`: marks the calling fiber.
struct Mark;

impl Function for Mark {
    const NAME: &'static str = "mark";
    const SUSPENDS: bool = false;
    type Input<'a> = f64;
    type Output = ();
    fn read<'a>(stack: Stack<'a>) -> f64 {
        stack.number(1)
    }
    fn run(_: Frame<'_>, number: f64) -> Result<(), Error> {
        mark_fiber(number as usize);
        Ok(())
    }
    fn push(_: &mut (), _: Stack<'_>) -> c_int {
        0
    }
}

/// Interrupts the thread that it was made on when `busy` is called there, until it is dropped.
struct Interrupter {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Interrupter {
    fn start(how: Interrupt) -> Interrupter {
        Interrupter::of_mark(0, how)
    }

    /// Interrupts only the fiber with that mark.
    fn of_mark(mark: usize, how: Interrupt) -> Interrupter {
        BUSY.store(false, Ordering::SeqCst);
        // SAFETY: asks only.
        let target = unsafe { libc::syscall(libc::SYS_gettid) } as libc::pid_t;
        let over = Arc::new(AtomicBool::new(false));
        let end = over.clone();
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::SeqCst) {
                if BUSY.swap(false, Ordering::SeqCst) {
                    let reacted = match mark {
                        0 => interrupt(&[target], how, LONG),
                        mark => interrupt_marked(&[target], mark, how, LONG),
                    };
                    assert_eq!(reacted, Ok(1));
                    TOLD.store(true, Ordering::SeqCst);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Interrupter {
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Interrupter {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn prepare(vm: &Vm) {
    vm.protect(|stack| {
        // SAFETY: protected; the globals' table is pushed and popped.
        unsafe { yue_luajit::ffi::lua_pushvalue(stack.raw(), yue_luajit::ffi::LUA_GLOBALSINDEX) };
        Vm::register::<Busy>(stack, "busy");
        Vm::register::<Mark>(stack, "mark");
        Vm::register::<BusyAndYield>(stack, "busy_and_yield");
    })
    .unwrap();
}

/// Runs `body` with a VM whose compiler is on, and with one whose compiler is off.
fn on_each_compiler(body: fn(&Vm)) {
    let _turn = turn();
    for switch in ["jit.on()", "jit.off()"] {
        with_vm(move |vm| {
            prepare(vm);
            eval(vm, switch);
            body(vm);
            // And the VM is as good as before: no hook is left, and fibers wait in it.
            let text = "local sum = 0 for i = 1, 1e5 do sum = sum + i end yield()
                return tostring(debug.gethook()) .. sum";
            assert_eq!(eval(vm, text), "nil5000050000");
        });
    }
}

#[test]
fn a_loop_without_end_is_interrupted_wherever_it_is() {
    on_each_compiler(|vm| {
        let _interrupter = Interrupter::start(Interrupt::Once);
        let places = [
            "busy() while true do end",
            "busy() local x = 0 while true do x = x + 1 end",
            "busy() for i = 1, math.huge do local t = { i } end",
            "local function f(n) return f(n + 1) end busy() f(1)",
            "busy() while true do ('x'):gsub('x', function() return 'y' end) end",
            "busy(); ('x'):gsub('x', function() while true do end end)",
            "busy() table.sort({ 1, 2, 3 }, function() while true do end end)",
            "coroutine.wrap(function() busy() while true do end end)()",
            "setmetatable({}, { __index = function() busy() while true do end end }).x()",
            "local co = coroutine.create(function() busy() while true do end end)
             local ok, e = coroutine.resume(co) error(e, 0)",
            "local a = require 'ffi'.new('int[4]') busy() while true do a[0] = a[0] + 1 end",
        ];
        for source in places {
            let error = error_of(vm, source);
            assert!(
                error.contains("the fiber was cancelled"),
                "{source}: {error}"
            );
        }
    });
}

#[test]
fn an_interruption_that_is_caught_leaves_the_time_to_clean_up() {
    on_each_compiler(|vm| {
        let _interrupter = Interrupter::start(Interrupt::Once);
        let text = "local ok, e = pcall(function() busy() while true do end end)
            local sum = 0
            for i = 1, 1e6 do sum = sum + 1 end
            yield()
            return tostring(ok) .. (e:match('cancelled') or e) .. sum";
        assert_eq!(eval(vm, text), "falsecancelled1000000");
    });
}

#[test]
fn a_lasting_interruption_ends_code_that_catches_it() {
    on_each_compiler(|vm| {
        let _interrupter = Interrupter::start(Interrupt::UntilUnwound);
        for source in [
            "busy() while true do pcall(function() while true do end end) end",
            "local function again() pcall(again) again() end busy() again()",
            "coroutine.wrap(function() busy() while true do pcall(error) end end)()",
            "busy() while true do xpcall(function() while true do end end, function(e) return e end) end",
        ] {
            let error = error_of(vm, source);
            assert!(
                error.contains("the fiber was cancelled"),
                "{source}: {error}"
            );
        }
    });
}

#[test]
fn no_fiber_is_interrupted_once_another_has_run() {
    on_each_compiler(|vm| {
        let _interrupter = Interrupter::start(Interrupt::UntilUnwound);
        let text = "local log = {}
            spawn(function() for i = 1, 1e5 do end log[#log + 1] = 'other' end)
            busy_and_yield()
            for i = 1, 1e5 do end
            log[#log + 1] = 'own'
            return table.concat(log, ' ')";
        assert_eq!(eval(vm, text), "other own");
    });
}

#[test]
fn a_thread_that_runs_no_lua_is_left_alone() {
    let _turn = turn();
    let (sender, receiver) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        with_vm(move |vm| {
            // SAFETY: asks only.
            sender
                .send(unsafe { libc::syscall(libc::SYS_gettid) } as libc::pid_t)
                .unwrap();
            ended.recv().unwrap();
            eval(vm, "return 'well'")
        })
    });
    let target = receiver.recv().unwrap();
    for how in [Interrupt::Once, Interrupt::UntilUnwound] {
        assert_eq!(interrupt(&[target], how, LONG), Ok(1));
    }
    end.send(()).unwrap();
    assert_eq!(thread.join().unwrap(), "well");
    assert_eq!(
        interrupt(&[target], Interrupt::Once, LONG),
        Ok(0),
        "it is gone"
    );
}

#[test]
fn an_interruption_that_names_a_mark_meets_no_other_fiber() {
    on_each_compiler(|vm| {
        let _interrupter = Interrupter::of_mark(7, Interrupt::UntilUnwound);
        for mark in ["", "mark(6)", "mark(7) mark(0)"] {
            let text = format!(
                "{mark} busy() local sum = 0 for i = 1, 1e7 do sum = sum + 1 end return tostring(sum)"
            );
            assert_eq!(eval(vm, &text), "10000000", "{mark}");
        }
        let error = error_of(vm, "mark(7) busy() while true do pcall(error) end");
        assert!(error.contains("the fiber was cancelled"), "{error}");
    });
}
