//! Pooled states: which go back to the pool, and what a program that kept one can do with it.

mod common;

use common::{chunk, error_of, eval, with_vm};

#[test]
fn a_fiber_that_knows_its_coroutine_leaves_it_to_nobody() {
    with_vm(|vm| {
        let kept = "kept = coroutine.running() return type(kept)";
        assert_eq!(eval(vm, kept), "thread");
        for _ in 0..10 {
            let same = "return coroutine.running() == kept";
            assert_eq!(eval(vm, same), "false", "another fiber has the same one");
        }
        assert_eq!(eval(vm, "return coroutine.status(kept)"), "dead");
    });
}

#[test]
fn a_kept_coroutine_cannot_take_another_fibers_function() {
    with_vm(|vm| {
        eval(vm, "kept = coroutine.running()");
        // Fibers that are made and not started yet.
        let lent: Vec<_> = (0..10).map(|_| chunk(vm, "return 'ran'")).collect();
        let resumed = eval(
            vm,
            "return select('#', coroutine.resume(kept)) .. tostring(coroutine.resume(kept))",
        );
        assert_eq!(resumed, "2false");
        for thread in lent {
            let fiber = thread.spawn(None, |ended| {
                assert!(ended.ok);
                assert_eq!(ended.thread.bytes(1), Some(&b"ran"[..]));
            });
            fiber.expect("a fiber").join().expect("it ran");
        }
    });
}

#[test]
fn a_coroutine_of_the_programs_own_is_no_fibers() {
    with_vm(|vm| {
        let before = eval(vm, "return collectgarbage('count') > 0");
        assert_eq!(before, "true");
        let pooled = |vm: &yue_luajit::Vm| format!("{vm:?}");
        let idle = pooled(vm);
        eval(
            vm,
            "return coroutine.wrap(function() return type(coroutine.running()) end)()",
        );
        assert_eq!(pooled(vm), idle, "the fiber's own state went back");
        eval(vm, "return type(coroutine.running())");
        assert_ne!(pooled(vm), idle, "this one did not");
    });
}

#[test]
fn after_a_burst_only_some_hundred_states_are_kept() {
    with_vm(|vm| {
        let states: Vec<_> = (0..5000).map(|_| vm.thread().expect("a state")).collect();
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
fn a_function_that_was_taken_away_is_an_error() {
    with_vm(|vm| {
        let thread = vm.thread().expect("a state");
        let fiber = thread.spawn(None, |ended| assert!(!ended.ok));
        fiber.expect("a fiber").join().expect("it ends");
        assert!(error_of(vm, "error('others go on')").contains("others go on"));
    });
}
