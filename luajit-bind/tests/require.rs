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
fn two_fibers_that_wait_for_each_other_get_an_error() {
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
fn an_error_in_a_loader_keeps_the_frames_of_the_module() {
    let message = with_vm(|vm| {
        error_of(
            vm,
            "package.preload.outer = loadstring('local inner = require(\"inner\") return inner', '=outer')
            package.preload.inner = loadstring('local function fails() local x = nil + 1 end fails() return', '=inner')
            return require('outer')",
        )
    });
    for frame in [
        "inner:1: attempt to perform arithmetic",
        "inner:1: in local 'fails'",
        "outer:1: in main chunk",
        "test:4: in main chunk",
    ] {
        assert!(message.contains(frame), "{frame} in {message}");
    }
}

#[test]
fn a_module_whose_loader_raised_after_publishing_is_loaded_again() {
    let got = with_vm(|vm| {
        eval(
            vm,
            "local n = 0
            package.preload.early = function()
                n = n + 1
                package.loaded.early = { n = n }
                yield()
                if n == 1 then error('first time', 0) end
            end
            local ok, e = pcall(require, 'early')
            return tostring(ok) .. ' ' .. e .. ' ' .. require('early').n .. ' ' .. package.loaded.early.n",
        )
    });
    assert_eq!(got, "false first time 2 2");
}

#[test]
fn a_module_that_removes_its_entry_is_loaded_again_when_it_is_required() {
    let got = with_vm(|vm| {
        eval(
            vm,
            "local n = 0
            package.preload.cleared = function()
                n = n + 1
                package.loaded.cleared = nil
                if n < 3 then return require('cleared') end
                return 'the ' .. n
            end
            package.preload.empty = function() package.loaded.empty = nil end
            return require('cleared') .. n .. package.loaded.cleared .. tostring(require('empty'))",
        )
    });
    assert_eq!(got, "the 33the 3nil");
}

#[test]
fn a_module_that_is_missing_is_named() {
    let message = with_vm(|vm| error_of(vm, "require('no.such.module')"));
    assert!(
        message.contains("module 'no.such.module' not found"),
        "{message}"
    );
}

/// Evaluates `source` where the module `name` is in a file with that text. The first line of `source` is line 2.
fn eval_with_module(name: &str, text: &str, source: &str) -> String {
    let folder = std::env::temp_dir().join(format!("yue-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join(format!("{name}.lua")), text).expect("a file");
    let path = folder.display();
    let source = format!("package.path = '{path}/?.lua'\n{source}");
    let got = with_vm(move |vm| eval(vm, &source));
    std::fs::remove_dir_all(&folder).expect("it was there");
    got
}

#[test]
fn a_module_file_is_found_and_may_suspend() {
    let got = eval_with_module(
        "filed",
        "yield() return {name = ...}",
        "return require('filed').name",
    );
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

#[test]
fn a_module_that_published_itself_is_found_by_what_it_requires() {
    let got = with_vm(|vm| {
        eval(
            vm,
            "package.preload.a = function(name)
                local M = {}
                package.loaded[name] = M
                yield()
                M.b = require('b')
                return M
            end
            package.preload.b = function() return {a = require('a')} end
            -- The old way of modules: nothing is returned.
            package.preload.old = function(name) module(name, package.seeall) _M.self = require(name) end
            local a = require('a')
            assert(a.b.a == a and package.loaded.a == a and require('a') == a)
            local old = require('old')
            assert(old.self == old and old._NAME == 'old')
            package.preload.nothing = function() end
            assert(require('nothing') == true)
            return 'found'",
        )
    });
    assert_eq!(got, "found");
}

#[test]
fn a_published_module_that_another_fiber_loads_is_still_waited_for() {
    let got = with_vm(|vm| {
        eval(
            vm,
            "package.preload.half = function(name)
                local M = {}
                package.loaded[name] = M
                for i = 1, 5 do yield() end
                M.whole = true
                return M
            end
            local seen
            spawn(function() require('half') end)
            spawn(function() seen = require('half').whole end)
            for i = 1, 20 do yield() end
            return tostring(seen)",
        )
    });
    assert_eq!(got, "true");
}

#[test]
fn errors_of_require_point_to_the_line_that_called_it() {
    let got = eval_with_module(
        "broken",
        "local = 1",
        "local function text(name) return (select(2, pcall(function() local m = require(name) return m end))) end
        local missing = text('no.such')
        assert(missing:match('^[^\\n]*:2: module .no.such. not found:\\n'), missing)
        package.preload.loop = function() return require('loop') .. '' end
        assert(text('loop'):match(':5: loop while loading module .loop.$'), text('loop'))
        package.preload.raises = function() error('as it is', 0) end
        assert(text('raises') == 'as it is')
        assert(text('broken'):match('^error loading module .broken. from file'), text('broken'))
        package.loaders = nil
        assert(text('any'):match(':2: .package.loaders. must be a table$'), text('any'))
        return 'all'",
    );
    assert_eq!(got, "all");
}
