//! Pooled states: which go back to the pool, and what C code that kept one can do with it.

mod common;

use common::{chunk, error_of, eval, wake_all, with_vm};
use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::ptr;
use std::rc::Rc;
use yue_luajit::{LuaState, Vm, ffi};
use yue_scheduler::yield_now;

#[test]
fn a_fibers_main_function_has_no_coroutine_object_that_another_fiber_could_have() {
    with_vm(|vm| {
        assert_eq!(
            eval(
                vm,
                "return select('#', coroutine.running()) .. tostring(coroutine.running())"
            ),
            "1nil"
        );
        assert_eq!(
            eval(
                vm,
                "return coroutine.wrap(function() yield() return type(coroutine.running()) end)()"
            ),
            "thread"
        );
        // In a coroutine it is that one, also after a switch to another fiber.
        let same =
            "local co co = coroutine.create(function() local before = coroutine.running() yield()
            return before == co and coroutine.running() == co end)
            return select(2, coroutine.resume(co))";
        assert_eq!(eval(vm, same), "true");
    });
}

thread_local! {
    static KEPT: Cell<*mut ffi::lua_State> = const { Cell::new(ptr::null_mut()) };
}

/// Keeps the state that it is called with, like some C modules.
unsafe extern "C-unwind" fn keep(state: *mut ffi::lua_State) -> c_int {
    KEPT.set(state);
    0
}

/// Calls its argument on the state that was kept; returns whether it returned, and what it raised.
unsafe extern "C-unwind" fn call_back(state: *mut ffi::lua_State) -> c_int {
    let kept = KEPT.get();
    // SAFETY: Lua calls this; the kept state belongs to the same VM, whose registry has it.
    unsafe {
        ffi::lua_xmove(state, kept, 1);
        let status = ffi::lua_pcall(kept, 0, 0, 0);
        ffi::lua_pushboolean(state, c_int::from(status == ffi::LUA_OK));
        if status == ffi::LUA_OK {
            return 1;
        }
        ffi::lua_xmove(kept, state, 1);
        2
    }
}

fn with_keeping_module<R: 'static>(body: impl FnOnce(&Vm) -> R + 'static) -> R {
    with_vm(|vm| {
        vm.protect(|stack| {
            for (name, function) in [
                (c"keep", keep as ffi::lua_CFunction),
                (c"call_back", call_back),
            ] {
                // SAFETY: protected.
                unsafe {
                    ffi::lua_pushcclosure(stack.raw(), function, 0);
                    ffi::lua_setfield(stack.raw(), ffi::LUA_GLOBALSINDEX, name.as_ptr());
                }
            }
        })
        .expect("two globals");
        body(vm)
    })
}

/// Runs what is loaded in a fiber, to its end, and returns its first result.
fn finish(state: LuaState) -> String {
    let result = Rc::new(RefCell::new(String::new()));
    let output = result.clone();
    let fiber = state.spawn(None, move |mut ended| {
        assert!(ended.ok, "{}", ended.error_text());
        let text = String::from_utf8_lossy(ended.state.bytes(1).unwrap_or_default()).into_owned();
        output.replace(text);
    });
    fiber.expect("a fiber").join().expect("it ends");
    result.take()
}

const REFUSED: &str =
    "cannot suspend here: a C module called back on the Lua state of another fiber";

#[test]
fn a_callback_on_a_state_in_the_pool_cannot_wait() {
    with_keeping_module(|vm| {
        // Both have a state before the first one gives its own back.
        let keeper = chunk(vm, "keep()");
        let caller = chunk(
            vm,
            "local ok, e = call_back(function() yield() end) assert(call_back(function() local x = 1 end))
            return tostring(ok) .. ' ' .. e",
        );
        finish(keeper);
        let got = finish(caller);
        assert!(got.starts_with("false ") && got.contains(REFUSED), "{got}");
    });
}

#[test]
fn a_callback_on_the_state_of_a_fiber_that_waits_cannot_wait() {
    with_keeping_module(|vm| {
        let parked = chunk(vm, "keep() local a, b = 1, 2 park() return tostring(a + b)").spawn(
            None,
            |ended| {
                assert!(ended.ok);
                assert_eq!(ended.state.bytes(1), Some(&b"3"[..]));
            },
        );
        let parked = parked.expect("a fiber");
        yield_now().expect("a turn");
        for _ in 0..10 {
            let got = eval(
                vm,
                "local ok, e = call_back(function() local t = {} for i = 1, 100 do t[i] = i end yield() end)
                return tostring(ok) .. ' ' .. e",
            );
            assert!(got.starts_with("false ") && got.contains(REFUSED), "{got}");
        }
        assert_eq!(wake_all(), 1);
        parked.join().expect("it ends");
    });
}

#[test]
fn a_callback_on_the_coroutine_of_a_fiber_that_waits_in_it_cannot_wait() {
    with_keeping_module(|vm| {
        let program =
            "local co = coroutine.wrap(function() keep() local a = 1 park() return tostring(a) end)
            return co()";
        let parked = chunk(vm, program).spawn(None, |ended| {
            assert!(ended.ok);
            assert_eq!(ended.state.bytes(1), Some(&b"1"[..]));
        });
        let parked = parked.expect("a fiber");
        yield_now().expect("a turn");
        let got = eval(
            vm,
            "local ok, e = call_back(function() yield() end) return tostring(ok) .. ' ' .. e",
        );
        assert!(got.starts_with("false ") && got.contains(REFUSED), "{got}");
        assert_eq!(wake_all(), 1);
        parked.join().expect("it ends");
    });
}

#[test]
fn a_callback_on_the_fibers_state_or_on_a_state_of_the_module_may_wait() {
    with_keeping_module(|vm| {
        assert_eq!(
            eval(vm, "keep() return call_back(function() yield() end)"),
            "true"
        );
        let own = "kept = coroutine.create(keep) coroutine.resume(kept)";
        eval(vm, own);
        assert_eq!(eval(vm, "return call_back(function() yield() end)"), "true");
    });
}

#[test]
fn a_state_in_which_c_code_has_a_call_is_not_lent() {
    with_keeping_module(|vm| {
        let keeper = chunk(vm, "keep()");
        let caller = chunk(
            vm,
            "local started, ended = 0, 0
            local ok, e = call_back(function()
              local t = {}
              for i = 1, 20 do spawn(function() started = started + 1 yield() ended = ended + 1 end) end
              for i = 1, 200 do t[i] = { i } end
            end)
            assert(ok, e)
            for i = 1, 5 do yield() end
            return started .. ' ' .. ended",
        );
        finish(keeper);
        assert_eq!(finish(caller), "20 20");
    });
}

#[test]
fn after_a_burst_only_some_hundred_states_are_kept() {
    with_vm(|vm| {
        let states: Vec<_> = (0..5000)
            .map(|_| vm.borrow_state().expect("a state"))
            .collect();
        let most = vm.memory();
        drop(states);
        vm.protect(|stack| {
            // SAFETY: protected.
            unsafe { yue_luajit::ffi::lua_gc(stack.raw(), yue_luajit::ffi::LUA_GCCOLLECT, 0) };
        })
        .expect("no error");
        assert!(
            vm.memory() < most / 2,
            "{most} bytes at most, {} still",
            vm.memory()
        );
    });
}

#[test]
fn a_function_that_was_removed_is_an_error() {
    with_vm(|vm| {
        let state = vm.borrow_state().expect("a state");
        let fiber = state.spawn(None, |ended| assert!(!ended.ok));
        fiber.expect("a fiber").join().expect("it ends");
        assert!(error_of(vm, "error('others continue')").contains("others continue"));
    });
}
