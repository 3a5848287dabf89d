//! Endless recursion of any kind is a Lua error, not a crash, and the fiber and its VM stay usable.

mod common;

use common::{error_of, eval, with_vm};

/// Runs a source that recurses without end in a fiber; it must raise, and the VM must work afterwards, also while it
/// suspends at the bottom.
#[track_caller]
fn overflows(source: &'static str, expected: &'static str) {
    let (message, after) = with_vm(move |vm| {
        let message = error_of(vm, source);
        (
            message,
            eval(
                vm,
                "yield() return (('ab'):gsub('.', function(c) yield() return c:upper() end))",
            ),
        )
    });
    assert!(
        message.contains(expected),
        "{}",
        &message[..message.len().min(500)]
    );
    assert_eq!(after, "AB");
}

#[test]
fn plain_recursion() {
    overflows(
        "local function f() return 1 + f() end return f()",
        "stack overflow",
    );
}

#[test]
fn recursion_through_pcall() {
    // Each level catches the error of the one above, so the result is the outermost pcall's.
    let got = with_vm(|vm| {
        eval(
            vm,
            "local function f() local ok, e = pcall(f) return ok, e end local ok = f() yield() return ok",
        )
    });
    assert_eq!(got, "true");
}

#[test]
fn recursion_through_gsub() {
    overflows(
        "local function f() return (('a'):gsub('a', f)) end return f()",
        "stack overflow",
    );
}

#[test]
fn recursion_through_gsub_that_suspends() {
    overflows(
        "local function f() yield() return (('a'):gsub('a', f)) end return f()",
        "stack overflow",
    );
}

#[test]
fn recursion_through_sort() {
    overflows(
        "local function f() table.sort({3, 2, 1}, f) return false end return f()",
        "stack overflow",
    );
}

#[test]
fn recursion_through_a_metamethod_in_sort() {
    overflows(
        "local mt = {} local function f() table.sort({setmetatable({}, mt), setmetatable({}, mt)}) return false end
        mt.__lt = f return f()",
        "stack overflow",
    );
}

#[test]
fn recursion_through_index_metamethods() {
    overflows(
        "local t = setmetatable({}, {__index = function(t, k) return t[k + 1] .. 'x' end}) return t[1]",
        "stack overflow",
    );
}

#[test]
fn recursion_through_tostring() {
    overflows(
        "local t = setmetatable({}, {__tostring = function(t) return string.format('%s', t) .. 'x' end}) return
            tostring(t)",
        "stack overflow",
    );
}

#[test]
fn recursion_through_load() {
    // `load` catches its reader's errors itself.
    let got = with_vm(|vm| {
        eval(
            vm,
            "local deepest local function f() local _, e = load(f) deepest = deepest or e end f() yield()
                return deepest",
        )
    });
    assert!(got.contains("stack overflow"), "{got}");
}

#[test]
fn recursion_through_require() {
    overflows(
        "local n = 0 local function f() n = n + 1 local name = 'm' .. n package.preload[name] = f return
            require(name) end
        return f()",
        "stack overflow",
    );
}

#[test]
fn recursion_through_coroutines() {
    overflows(
        "local function f() return coroutine.wrap(f)() end return f()",
        "stack overflow",
    );
}

#[test]
fn recursion_through_ffi_callbacks() {
    overflows(
        "local cb cb = require('ffi').cast('void (*)(void)', function() cb() end) jit.off() cb() return 1",
        "stack overflow",
    );
}

#[test]
fn an_error_handler_that_fails() {
    let got = with_vm(|vm| {
        eval(
            vm,
            "local function h(e) error(e) end local ok, e = xpcall(error, h, 'x') yield() return tostring(ok)",
        )
    });
    assert_eq!(got, "false");
}
