//! A worker fiber answers one encoded request after another on one state, like an RPC handler.

mod common;

use common::codec::lua_fiber;
use common::{background, eval, wake_all, with_vm};
use yue_luajit::codec::{DecodeError, Reader};
use yue_luajit::{Error, NoReferences, Raise, Raised, Running, Stack, Vm, ffi};
use yue_scheduler::yield_now;

/// Runs `body` with a worker; `globals` defines the functions that it calls.
fn worker(globals: &'static str, body: impl FnOnce(&Vm, &mut Running<'_>) + 'static) {
    with_vm(move |vm| {
        background(2, 50);
        eval(vm, globals);
        let vm = vm.clone();
        lua_fiber(move || {
            let mut state = vm.borrow_state().expect("a state");
            state.attach(|running| body(&vm, running));
        });
    });
}

/// The outcome of a call that returned no results.
#[derive(Debug, PartialEq)]
enum CallError {
    NotFound,
    Params(DecodeError),
    Raised,
    Results(String),
}

/// Serves a request like the layer above: looks the global function `name` up, decodes `count` values as its arguments,
/// calls it and encodes its results.
fn call(
    running: &mut Running<'_>,
    name: &'static str,
    count: u32,
    params: &[u8],
) -> Result<(i32, Vec<u8>), CallError> {
    let codec = running.state().vm().codec();
    let mut fault = None;
    let fault_at = &raw mut fault;
    let called = running.enter(|stack| {
        // SAFETY: `enter` runs this protected, and `fault`, which has no destructor, outlives it.
        unsafe {
            stack.push_bytes(name.as_bytes());
            ffi::lua_rawget(stack.raw(), ffi::LUA_GLOBALSINDEX);
            if ffi::lua_type(stack.raw(), -1) != ffi::LUA_TFUNCTION {
                return false;
            }
            let mut reader = Reader::new(params);
            let decoded = codec.decode_values(stack, &mut reader, count, &NoReferences);
            *fault_at = decoded.and_then(|_| reader.finish()).err();
            (*fault_at).is_none()
        }
    });
    match (called, fault) {
        (Err(Raised), _) => Err(CallError::Raised),
        (Ok(None), Some(error)) => Err(CallError::Params(error)),
        (Ok(None), None) => Err(CallError::NotFound),
        (Ok(Some(results)), _) => {
            let (state, first) = (running.state().raw(), running.state().first());
            let mut out = Vec::new();
            // SAFETY: the results are on the stack of this fiber's own state.
            unsafe {
                codec.encode_values(state, first, results, "results", &NoReferences, &mut out)
            }
            .map_err(|error| CallError::Results(error.to_string()))?;
            Ok((results, out))
        }
    }
}

#[test]
fn results_keep_their_positions() {
    worker(
        "function echo(...) yield() return ... end function count(...) return select('#', ...) end function none() end",
        |_, running| {
            for _ in 0..3 {
                assert_eq!(
                    call(running, "echo", 4, b"\xc0\x01\xa1x\xc0"),
                    Ok((4, b"\xc0\x01\xa1x\xc0".to_vec()))
                );
                assert_eq!(call(running, "count", 3, b"\xc0\xc0\xc0"), Ok((1, vec![3])));
                assert_eq!(call(running, "none", 0, b""), Ok((0, vec![])));
                yield_now().expect("a worker may park between calls");
            }
        },
    );
}

#[test]
fn errors_of_calls_name_their_cause() {
    worker(
        "function id(a) return a end function bad() return 1, {x = print} end",
        |_, running| {
            assert_eq!(call(running, "missing", 0, b""), Err(CallError::NotFound));
            assert!(matches!(
                call(running, "id", 2, b"\x01"),
                Err(CallError::Params(_))
            ));
            assert!(matches!(
                call(running, "id", 1, b"\x01\x01"),
                Err(CallError::Params(_))
            ));
            let Err(CallError::Results(error)) = call(running, "bad", 0, b"") else {
                panic!("a function in a result is refused");
            };
            assert!(error.starts_with("cannot send results[2].x"), "{error}");
            assert_eq!(
                call(running, "id", 1, b"\x05"),
                Ok((1, vec![5])),
                "the worker continues"
            );
        },
    );
}

#[test]
fn an_error_leaves_its_value_on_the_stack() {
    worker(
        "function f() yield() error('oh no') end function ok() return 1 end",
        |_, running| {
            assert_eq!(call(running, "f", 0, b""), Err(CallError::Raised));
            let first = running.state().count();
            let text =
                String::from_utf8_lossy(running.state().bytes(first).expect("text")).into_owned();
            assert!(
                text.contains("test:1: oh no") && text.contains("stack traceback"),
                "{text}"
            );
            assert_eq!(call(running, "ok", 0, b""), Ok((1, vec![1])));
        },
    );
}

#[test]
fn a_call_with_too_many_parameters_is_refused() {
    worker(
        "function count(...) return select('#', ...) end",
        |_, running| {
            assert_eq!(
                call(running, "count", 200, &[0xc0; 200]),
                Ok((1, vec![0xcc, 200]))
            );
            let Err(CallError::Params(error)) = call(running, "count", 60_000, &[0xc0; 60_000])
            else {
                panic!("more values than a stack holds are refused");
            };
            assert!(
                error
                    .to_string()
                    .contains("60000 values are more than a call can take"),
                "{error}"
            );
        },
    );
}

/// An error value with fields, as the layers above raise them.
struct Refused;

impl Raise for Refused {
    fn push(&self, stack: Stack<'_>) {
        // SAFETY: `Stack` is a frame that may raise.
        unsafe {
            ffi::lua_createtable(stack.raw(), 0, 1);
            stack.push_bytes(b"TimeoutError");
            ffi::lua_setfield(stack.raw(), -2, c"type".as_ptr());
        }
    }
}

unsafe extern "C-unwind" fn refuse(state: *mut ffi::lua_State) -> i32 {
    // SAFETY: called by Lua; the error is the only value, and `raise` takes it over.
    unsafe {
        match yue_luajit::suspending(state, "refuse", || yield_now().map_err(Error::from)) {
            Ok(()) => yue_luajit::raise(state, Error::value(Refused)),
            Err(error) => yue_luajit::raise(state, error),
        }
    }
}

#[test]
fn raw_functions_can_suspend_and_raise_objects() {
    let got = with_vm(|vm| {
        vm.protect(|stack| {
            // SAFETY: protected.
            unsafe {
                ffi::lua_pushcclosure(stack.raw(), refuse, 0);
                ffi::lua_setfield(stack.raw(), ffi::LUA_GLOBALSINDEX, c"refuse".as_ptr());
            }
        })
        .expect("a global");
        eval(vm, "local ok, e = pcall(refuse) return e.type")
    });
    assert_eq!(got, "TimeoutError");
}

#[test]
fn a_cancelled_fiber_gets_an_error_it_can_catch() {
    let got = with_vm(|vm| {
        let mut state = common::chunk(
            vm,
            "local ok, e = pcall(park) back = tostring(ok) .. ' ' .. tostring(e)",
        );
        let first = state.first();
        assert_eq!(first, 3);
        assert!(state.push_number(1.0));
        let fiber = state
            .spawn(None, |ended| assert!(ended.ok))
            .expect("a fiber");
        yield_now().expect("not cancelled");
        fiber.cancel();
        fiber.join().expect("it ends");
        wake_all();
        eval(vm, "return back")
    });
    assert!(got.starts_with("false ") && got.contains("cancel"), "{got}");
}

#[test]
fn pooled_states_come_back_clean() {
    with_vm(|vm| {
        assert_eq!(eval(vm, "setfenv(0, {}) return 'changed'"), "changed");
        assert_eq!(eval(vm, "return type(print)"), "function");
        assert_eq!(
            eval(
                vm,
                "local a = {} for i = 1, 200 do a[i] = i end return select('#', unpack(a))"
            ),
            "200"
        );
        assert_eq!(eval(vm, "return select('#', ...)"), "0");
    });
}

#[test]
fn the_idle_hook_collects_and_then_rests() {
    with_vm(|vm| {
        eval(vm, "for i = 1, 200000 do local t = {i} end");
        eval(
            vm,
            "collectgarbage('setpause', 1000) junk = {} for i = 1, 100000 do junk[i] = {i} end junk = nil",
        );
        let before = vm.memory();
        let mut steps = 0;
        while vm.gc_step_idle() {
            steps += 1;
            assert!(steps < 1_000_000, "a cycle ends");
        }
        assert!(steps > 10, "in steps, not at once: {steps}");
        assert!(
            vm.memory() < before / 2,
            "{} of {before} bytes are left",
            vm.memory()
        );
        assert!(!vm.gc_step_idle(), "there is nothing more to do");
    });
}

#[test]
fn the_idle_hook_leaves_a_stopped_collector_alone() {
    with_vm(|vm| {
        eval(
            vm,
            "collectgarbage('stop') for i = 1, 100000 do local t = {i} end",
        );
        let before = vm.memory();
        assert!(!vm.gc_step_idle());
        assert_eq!(vm.memory(), before);
    });
}

#[test]
fn a_closed_vm_runs_its_finalizers() {
    let path = std::env::temp_dir().join(format!("yue-finalized-{}", std::process::id()));
    let finalized = path.clone();
    with_vm(move |vm| {
        let source = format!(
            "G = newproxy(true) getmetatable(G).__gc = function() io.open('{}', 'w'):close() end",
            finalized.display()
        );
        eval(vm, &source);
        assert!(!finalized.exists());
    });
    assert!(path.exists());
    std::fs::remove_file(&path).expect("it was there");
}
