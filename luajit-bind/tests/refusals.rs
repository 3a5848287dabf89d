//! A suspension that LuaJIT could not resume is refused with a Lua error that gives the reason; the fiber continues.

mod common;

use common::{error_of, eval, run, with_vm};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use yue_luajit::{Vm, ffi};
use yue_scheduler::yield_now;

thread_local! {
    static REASONS: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// A backtrace of a panic under LuaJIT's compiled code ends in an abort of the unwinder, so panics print none here.
fn print_panics_without_backtrace() {
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
}

/// Tries to suspend and notes why it was not allowed to.
fn try_to_yield() {
    let reason = match catch_unwind(AssertUnwindSafe(yield_now)) {
        Ok(_) => "it was allowed".to_owned(),
        Err(payload) => payload
            .downcast_ref::<String>()
            .cloned()
            .unwrap_or_default(),
    };
    REASONS.with_borrow_mut(|reasons| reasons.insert(reason));
}

extern "C" fn yield_through_ffi() -> c_int {
    try_to_yield();
    0
}

fn set_global_address(vm: &Vm) {
    let address = yield_through_ffi as extern "C" fn() -> c_int as usize;
    vm.with_mlua(|lua| lua.globals().set("address", address as f64))
        .expect("a global");
}

#[test]
fn a_finalizer_cannot_suspend() {
    let message = with_vm(|vm| {
        eval(
            vm,
            "local p = newproxy(true) getmetatable(p).__gc = function() ok, e = pcall(yield) end
            p = nil collectgarbage() collectgarbage() yield() return e",
        )
    });
    assert!(
        message.contains("cannot suspend inside a __gc finalizer"),
        "{message}"
    );
}

#[test]
fn a_finalizer_of_cdata_cannot_suspend() {
    let message = with_vm(|vm| {
        eval(
            vm,
            "local ffi = require 'ffi' do local c = ffi.gc(ffi.new('int[1]'), function() ok, e = pcall(yield) end) end
            collectgarbage() collectgarbage() yield() return e",
        )
    });
    assert!(
        message.contains("cannot suspend inside a __gc finalizer"),
        "{message}"
    );
}

#[test]
fn a_hook_cannot_suspend() {
    let message = with_vm(|vm| {
        eval(
            vm,
            "jit.off() local e debug.sethook(function() if not e then e = select(2, pcall(yield)) end end, '', 1)
            local x = 1 + 1 x = x + 1 debug.sethook() yield() return e",
        )
    });
    assert!(
        message.contains("cannot suspend inside a debug hook"),
        "{message}"
    );
}

#[test]
fn a_vm_event_handler_cannot_suspend() {
    let message = with_vm(|vm| {
        eval(
            vm,
            "jit.opt.start('hotloop=2') local e
            local function seen() if not e then e = select(2, pcall(yield)) end end
            jit.attach(seen, 'trace') local n = 0 for i = 1, 100 do n = n + i end jit.attach(seen) yield() return e",
        )
    });
    assert!(
        message.contains("cannot suspend inside a VM event handler"),
        "{message}"
    );
}

#[test]
fn an_ffi_callback_cannot_suspend() {
    let message = with_vm(|vm| {
        eval(
            vm,
            "local e local cb = require('ffi').cast('void (*)(void)', function() e = select(2, pcall(yield)) end)
            cb() cb:free() yield() return e",
        )
    });
    assert!(
        message.contains("cannot suspend under an FFI callback"),
        "{message}"
    );
}

#[test]
fn a_coroutine_under_an_ffi_callback_cannot_suspend() {
    let message = with_vm(|vm| {
        eval(
            vm,
            "local e local cb = require('ffi').cast('void (*)(void)', function()
                coroutine.wrap(function() e = select(2, pcall(yield)) end)() end)
            cb() yield() return e",
        )
    });
    assert!(
        message.contains("cannot suspend under an FFI callback"),
        "{message}"
    );
}

#[test]
fn a_program_that_has_callbacks_can_suspend_elsewhere() {
    let got = with_vm(|vm| {
        eval(
            vm,
            "local cb = require('ffi').cast('void (*)(void)', function() end) cb()
            yield() coroutine.wrap(function() yield() local co = coroutine.create(function() yield() end)
            assert(coroutine.resume(co)) end)() return 'ok'",
        )
    });
    assert_eq!(got, "ok");
}

#[test]
fn an_ffi_call_cannot_suspend_compiled_or_not() {
    print_panics_without_backtrace();
    let reasons = with_vm(|vm| {
        set_global_address(vm);
        eval(
            vm,
            "jit.opt.start('hotloop=5') local ffi = require 'ffi'
            local f = ffi.cast('int (*)(void)', ffi.cast('intptr_t', address))
            local n = 0 for i = 1, 200 do n = n + f() end yield() return n",
        );
        REASONS.take()
    });
    assert!(!reasons.contains("it was allowed"), "{reasons:?}");
    let said = |words: &str| reasons.iter().any(|reason| reason.contains(words));
    assert!(said("JIT-compiled FFI call"), "{reasons:?}");
    assert!(said("not inside a suspending function"), "{reasons:?}");
}

struct YieldOnDrop;

impl Drop for YieldOnDrop {
    fn drop(&mut self) {
        try_to_yield();
    }
}

unsafe extern "C-unwind" fn raises_over_a_destructor(state: *mut ffi::lua_State) -> c_int {
    let _guard = YieldOnDrop;
    // SAFETY: called by Lua; the error unwinds through this frame and runs its destructor.
    unsafe { ffi::luaL_error(state, c"over a destructor".as_ptr()) }
}

#[test]
fn a_destructor_run_by_a_lua_error_cannot_suspend() {
    let (message, reasons) = with_vm(|vm| {
        vm.protect(|stack| {
            // SAFETY: protected.
            unsafe {
                ffi::lua_pushcclosure(stack.raw(), raises_over_a_destructor, 0);
                ffi::lua_setfield(stack.raw(), ffi::LUA_GLOBALSINDEX, c"raises".as_ptr());
            }
        })
        .expect("a global");
        let message = eval(vm, "local ok, e = pcall(raises) yield() return e");
        (message, REASONS.take())
    });
    assert!(message.contains("over a destructor"), "{message}");
    assert!(
        reasons
            .iter()
            .all(|reason| reason.contains("a Lua error is unwinding")),
        "{reasons:?}"
    );
    assert_eq!(reasons.len(), 1);
}

#[test]
fn a_function_made_with_mlua_cannot_suspend() {
    let reasons = with_vm(|vm| {
        vm.with_mlua(|lua| {
            let function = lua.create_function(|_, ()| {
                try_to_yield();
                Ok(())
            })?;
            lua.globals().set("through_mlua", function)
        })
        .expect("a global");
        eval(vm, "through_mlua() yield() return 1");
        REASONS.take()
    });
    assert_eq!(reasons.len(), 1);
    assert!(
        reasons.iter().all(
            |reason| reason.contains("the innermost C function cannot suspend")
                || reason.contains("not inside a suspending function")
        ),
        "{reasons:?}"
    );
}

#[test]
fn a_section_with_mlua_cannot_suspend() {
    let message = with_vm(|vm| {
        let caught = catch_unwind(AssertUnwindSafe(|| vm.with_mlua(|_| yield_now())));
        caught
            .expect_err("a panic")
            .downcast_ref::<String>()
            .cloned()
            .unwrap_or_default()
    });
    assert!(message.contains("no_suspend"), "{message}");
}

#[test]
fn a_protected_section_on_the_main_state_cannot_suspend() {
    let error = with_vm(|vm| {
        vm.protect(|stack| {
            // SAFETY: protected.
            unsafe {
                ffi::lua_getfield(stack.raw(), ffi::LUA_GLOBALSINDEX, c"yield".as_ptr());
                ffi::lua_call(stack.raw(), 0, 0);
            }
        })
    });
    assert!(
        error
            .expect_err("an error")
            .to_string()
            .contains("no_suspend")
    );
}

#[test]
fn a_refusal_is_an_ordinary_error_with_a_position() {
    let message = with_vm(|vm| {
        run(vm, "local p = newproxy(true) getmetatable(p).__gc = function() e = select(2, pcall(yield)) end").ok();
        error_of(vm, "collectgarbage() collectgarbage()\n\nerror(e, 0)")
    });
    assert!(
        message.contains("cannot suspend inside a __gc finalizer"),
        "{message}"
    );
}
