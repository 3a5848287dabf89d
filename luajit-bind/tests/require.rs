//! `require` among fibers; and what else of the library is changed.

mod common;

use common::{error_of, eval, with_vm};
use std::process::Command;

#[test]
fn a_loader_can_suspend_and_the_module_is_loaded_once() {
    let got = with_vm(|vm| {
        eval(
            vm,
            "local loads, seen = 0, {}
            package.preload.slow = function() loads = loads + 1 for i = 1, 10 do yield() end return {n = loads} end
            for i = 1, 5 do spawn(function() seen[i] = require('slow') end) end
            for i = 1, 50 do yield() end
            for i = 1, 5 do assert(seen[i] == seen[1]) end
            assert(require('slow') == seen[1] and require('slow') == package.loaded.slow)
            return loads .. ' ' .. seen[5].n",
        )
    });
    assert_eq!(got, "1 1");
}

#[test]
fn a_loop_within_one_fiber_is_an_error() {
    let message = with_vm(|vm| {
        error_of(
            vm,
            "package.preload.a = function() yield() return require('b') end
            package.preload.b = function() return require('a') end
            return require('a')",
        )
    });
    assert!(
        message.contains("loop while loading module 'a'"),
        "{message}"
    );
}

#[test]
fn two_fibers_that_wait_for_each_other_are_told() {
    let got = with_vm(|vm| {
        eval(
            vm,
            "local errors = {}
            package.preload.a = function() yield() return require('b') end
            package.preload.b = function() yield() return require('a') end
            for _, name in ipairs {'a', 'b'} do
                spawn(function() local ok, e = pcall(require, name) if not ok then errors[#errors + 1] = e end end)
            end
            for i = 1, 30 do yield() end
            return #errors .. tostring(errors[1])",
        )
    });
    assert!(got.contains("loop while loading module"), "{got}");
}

#[test]
fn a_loader_that_failed_is_tried_again() {
    let got = with_vm(|vm| {
        eval(
            vm,
            "local n = 0
            package.preload.flaky = function() n = n + 1 yield() if n == 1 then error('first time', 0) end return n end
            local first, second
            spawn(function() first = select(2, pcall(require, 'flaky')) end)
            spawn(function() second = require('flaky') end)
            for i = 1, 20 do yield() end
            return first .. ' ' .. second",
        )
    });
    assert_eq!(got, "first time 2");
}

#[test]
fn a_module_that_is_missing_is_named() {
    let message = with_vm(|vm| error_of(vm, "require('no.such.module')"));
    assert!(
        message.contains("module 'no.such.module' not found"),
        "{message}"
    );
}

#[test]
fn a_module_file_is_found_and_may_suspend() {
    let directory = std::env::temp_dir().join(format!("yue-require-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(directory.join("filed.lua"), "yield() return {name = ...}").expect("a file");
    let source = format!(
        "package.path = '{}/?.lua' return require('filed').name",
        directory.display()
    );
    let got = with_vm(move |vm| eval(vm, &source));
    std::fs::remove_dir_all(&directory).expect("it was there");
    assert_eq!(got, "filed");
}

/// Runs this test binary's test `name` alone in a child process, with `YUE_CHILD` set.
fn child(name: &str) -> std::process::Output {
    let this = std::env::current_exe().expect("the test binary");
    let mut command = Command::new(this);
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("YUE_CHILD", "1");
    command.output().expect("a child process")
}

#[test]
fn os_exit_flushes_and_leaves_while_fibers_are_parked() {
    if std::env::var_os("YUE_CHILD").is_some() {
        with_vm(|vm| {
            eval(
                vm,
                "for i = 1, 10 do spawn(function() park() end) end yield()
                io.stdout:setvbuf('full') io.write('written before') print(' leaving') os.exit(7)",
            );
        });
        unreachable!("os.exit leaves");
    }
    let output = child("os_exit_flushes_and_leaves_while_fibers_are_parked");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("written before leaving"), "{text}");
    assert_eq!(output.status.code(), Some(7));
}
