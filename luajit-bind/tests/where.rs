//! Locations of Lua fibers: the traceback of one that waits, and the lines of one that blocks its loop.

mod common;

use common::{chunk, with_vm};
use std::iter;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;
use yue_luajit::Vm;
use yue_scheduler::inspect::{HeldLoop, stop_watching, watch_loops_with};
use yue_scheduler::{JoinHandle, this_loop, yield_now};

fn start(vm: &Vm, source: &str) -> JoinHandle<()> {
    let fiber = chunk(vm, source).spawn(Some("lua"), |mut ended| {
        assert!(ended.ok || ended.error_text().contains("cancelled"));
    });
    fiber.unwrap()
}

/// The traceback of a fiber that runs `source` up to its `park()`.
fn parked(source: &'static str) -> String {
    with_vm(move |vm| {
        let fiber = start(vm, source);
        yield_now().unwrap();
        let text = this_loop::describe(fiber.id()).join("\n");
        // It continues as if nothing had happened.
        fiber.cancel();
        fiber.join().unwrap();
        text
    })
}

#[test]
fn a_parked_fiber_shows_its_lua_calls_innermost_first() {
    let text = parked(
        "local function inner()
           park()
         end
         function outer()
           inner()
           return 1
         end
         outer()",
    );
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        [
            "Lua:",
            "C function 'park'",
            "test:2: function 'inner'",
            "test:5: function 'outer'",
            "test:8: main chunk",
        ]
    );
}

#[test]
fn a_fiber_parked_inside_coroutines_shows_all_of_them() {
    let text = parked(
        "local co = coroutine.create(function()
           coroutine.wrap(function()
             park()
           end)()
         end)
         coroutine.resume(co)",
    );
    assert_eq!(text.matches("resumed by").count(), 2, "{text}");
    for line in ["test:3: ", "test:4: ", "test:6: main chunk"] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn a_fiber_parked_below_pcall_and_a_sort_shows_the_way_down() {
    let text = parked(
        "pcall(table.sort, {2, 1}, function(a, b)
           park()
           return a < b
         end)",
    );
    for part in ["test:2: ", "C function 'pcall'", "test:1: main chunk"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

/// The origin, in the list of fibers, of the fiber that `source` leaves parked.
fn origin(source: &'static str) -> Option<Box<str>> {
    with_vm(move |vm| {
        let fiber = start(vm, source);
        let of = |id| this_loop::fiber(id).unwrap().origin;
        assert_eq!(of(fiber.id()), None, "it has not run yet");
        yield_now().unwrap();
        let found = of(fiber.id());
        let line = this_loop::fiber(fiber.id()).unwrap().to_string();
        assert_eq!(found.is_some(), line.contains(" to run "), "{line}");
        fiber.cancel();
        fiber.join().unwrap();
        found
    })
}

#[test]
fn the_list_has_the_outermost_function_of_a_parked_fiber() {
    let functions = "local function inner()
           local ok, message = pcall(park)
           return error(message)
         end
         local function outer(...)
           inner()
           return ...
         end
         ";
    let text = origin(
        "local function inner() park() return 1 end
         inner()
         return 1",
    );
    // The main chunk has no line.
    assert_eq!(text.as_deref(), Some("test"));
    // A tail call leaves no frame of who made it.
    let tail: &'static str = format!("{functions} return outer(1, 2, 3)").leak();
    assert_eq!(origin(tail).as_deref(), Some("test:5"));
    let coroutine: &'static str =
        format!("{functions} return (function() coroutine.wrap(outer)() return 1 end)()").leak();
    assert_eq!(origin(coroutine).as_deref(), Some("test:9"));
    let deep = "local function deep(n) if n == 0 then park() end return 1 + deep(n - 1) end
         return deep(5000)";
    assert_eq!(origin(deep).as_deref(), Some("test:1"));
    // What is loaded under no name, and what is called by no function of Lua's.
    let nameless = "return loadstring('park() return 1')()";
    assert_eq!(origin(nameless).as_deref(), Some("[string]"));
    assert_eq!(origin("return park()"), None);
}

#[test]
fn functions_of_the_embedder_are_not_the_origin() {
    let wrapped = "local wrap = loadstring([[
           local fn = ...
           fn()
           return 1
         ]], '=[core]/wrap.lua')
         return wrap(function()
           park()
           return 1
         end)";
    assert_eq!(origin(wrapped).as_deref(), Some("test:6"));
}

/// The watchdog's report of a fiber that runs `source`, in which `gate()` becomes true once the report is there. Now
/// and then it interrupts the fiber in the middle of a call and can read no frame; then it is run again.
fn held(source: &str) -> HeldLoop {
    let readable = |held: &HeldLoop| {
        let note = held.note.as_deref();
        !note.is_some_and(|note| note.contains("where no frame can be read"))
    };
    let mut reports = iter::repeat_with(|| held_once(source)).take(20);
    reports.find(readable).expect("no frame could be read")
}

fn held_once(source: &str) -> HeldLoop {
    static TURN: Mutex<()> = Mutex::new(());
    static GATE: AtomicI32 = AtomicI32::new(0);
    let _turn: MutexGuard<'_, ()> = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    GATE.store(0, Ordering::Relaxed);
    let (sender, receiver) = mpsc::channel();
    watch_loops_with(Duration::from_millis(30), move |held| {
        let _ = sender.send(held.clone());
        GATE.store(1, Ordering::Relaxed);
    })
    .unwrap();
    let source = source.to_owned();
    with_vm(move |vm| {
        // A call through the FFI, which is compiled but never moved out of a loop.
        extern "C" fn is_open() -> i32 {
            GATE.load(Ordering::Relaxed)
        }
        let address = is_open as *const () as usize;
        let gate = format!(
            "local open = require'ffi'.cast('int (*)(void)', {address}ULL)
             local function gate() return open() ~= 0 end "
        );
        // The gate is on the first two lines.
        start(vm, &(gate + &source)).join().unwrap();
    });
    stop_watching();
    receiver.recv().unwrap()
}

#[test]
fn interpreted_code_that_holds_its_loop_is_named_with_file_and_line() {
    let held = held(
        "jit.off()
         local function busy(...)
           local n = 0
           while not gate() do
             n = n + 1
           end
           return n
         end
         local function work(...) local n = busy(...) return n + 1 end
         local n = work(1, 2)
         jit.on()",
    );
    let note = held.note.clone().unwrap();
    let lines: Vec<_> = note.lines().map(str::trim).collect();
    assert_eq!(lines[0], "Lua:");
    // The innermost may be `gate` itself.
    let busy = lines
        .iter()
        .position(|line| (5..=6).any(|number| line == &format!("test:{number}: function 'busy'")));
    let busy = busy.unwrap_or_else(|| panic!("{note}"));
    assert_eq!(
        lines[busy + 1..],
        ["test:10: function 'work'", "test:11: main chunk"],
        "{note}"
    );
    assert_eq!(held.name.as_deref(), Some("lua"));
    assert!(
        held.to_string().contains("lj_"),
        "the calls in C as well: {held}"
    );
}

#[test]
fn compiled_code_that_holds_its_loop_is_named_by_its_traces_first_line() {
    let held = held(
        "local n = 0
         while not gate() do
           n = n + 1
         end",
    );
    let note = held.note.clone().unwrap();
    assert!(
        note.contains("compiled (the first line of its trace)"),
        "{held}"
    );
    assert!(
        (3..=4).any(|line| note.contains(&format!("test:{line}: main chunk, compiled"))),
        "{held}"
    );
}

#[test]
fn a_c_function_that_holds_its_loop_is_named_by_its_caller() {
    let held = held(
        "local text = ('a'):rep(30)
         while not gate() do
           local _ = text:find(('a?'):rep(14) .. ('a'):rep(40))
         end",
    );
    let note = held.note.clone().unwrap();
    assert!(
        note.contains("test:4: ") || note.contains("test:3: "),
        "{held}"
    );
}

#[test]
fn an_operator_that_is_computed_in_c_is_named_by_its_line() {
    // Many short operands, so that the function for `..` itself, which uses the interpreter's registers, takes longest.
    let source = format!(
        "jit.off()
         local e = ''
         while not gate() do
           local _ = {}e
         end
         jit.on()",
        "e .. ".repeat(100)
    );
    for _ in 0..5 {
        let held = held(&source);
        let note = held.note.clone().unwrap();
        assert!(
            note.contains("test:5: ") || note.contains("test:4: "),
            "{held}"
        );
    }
}
