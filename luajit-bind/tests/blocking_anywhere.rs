//! A function that suspends may be called wherever Lua can call a function.

mod common;

use common::{background, error_of, eval, with_vm};

/// Runs a source that must give `expected`, with other fibers running in between.
#[track_caller]
fn gives(source: &'static str, expected: &'static str) {
    let got = with_vm(move |vm| {
        background(3, 200);
        eval(vm, source)
    });
    assert_eq!(got, expected);
}

#[test]
fn plain_code_can_suspend() {
    gives(
        "local n = 0 for i = 1, 100 do yield() n = n + i end return n",
        "5050",
    );
}

#[test]
fn pcall_can_be_suspended_in_and_still_catches() {
    gives(
        "local ok, e = pcall(function() yield() error('x', 0) end) yield() return tostring(ok) .. e",
        "falsex",
    );
}

#[test]
fn an_xpcall_handler_can_suspend() {
    gives(
        "return (select(2, xpcall(function() error('a', 0) end, function(e) yield() return e .. 'b' end)))",
        "ab",
    );
}

#[test]
fn metamethods_can_suspend() {
    gives(
        r#"
        local mt = {}
        mt.__index = function(t, k) yield() return k end
        mt.__newindex = function(t, k, v) yield() rawset(t, k, v) end
        mt.__add = function(a, b) yield() return 1 end
        mt.__call = function(self, a) yield() return a end
        mt.__lt = function(a, b) yield() return true end
        mt.__le = function(a, b) yield() return true end
        mt.__eq = function(a, b) yield() return true end
        mt.__concat = function(a, b) yield() return 'c' end
        mt.__unm = function(a) yield() return 2 end
        mt.__tostring = function() yield() return 's' end
        local a, b = setmetatable({}, mt), setmetatable({}, mt)
        b.z = 9
        return a.x .. (a + b) .. a(7) .. tostring(a < b) .. tostring(a <= b) .. tostring(a == b) .. (a .. b) .. -a
            .. tostring(a) .. string.format('%s', a) .. b.z"#,
        "x17truetruetruec2ss9",
    );
}

#[test]
fn iterators_can_suspend() {
    gives(
        "local n = 0 for i in function(_, i) yield() i = (i or 0) + 1 if i < 50 then return i end end do n = n
            + i end return n",
        "1225",
    );
}

#[test]
fn a_sort_comparator_can_suspend() {
    gives(
        r#"local t = {} for i = 1, 50 do t[i] = (i * 37) % 101 end
        table.sort(t, function(a, b) yield() return a < b end)
        for i = 2, 50 do assert(t[i-1] <= t[i]) end return #t"#,
        "50",
    );
}

#[test]
fn a_gsub_callback_can_suspend() {
    gives(
        "return (('abc'):gsub('.', function(c) yield() return c:upper() end))",
        "ABC",
    );
}

#[test]
fn gsub_callbacks_nest_while_they_suspend() {
    gives(
        r#"local function deep(n) if n == 0 then yield() return 'x' end
            return (('a'):gsub('a', function() yield() return deep(n - 1) end)) end
        return deep(20)"#,
        "x",
    );
}

#[test]
fn a_load_reader_can_suspend() {
    gives(
        "local parts, i = {'return ', '4', '2'}, 0 return load(function() yield() i = i + 1 return parts[i] end)()",
        "42",
    );
}

#[test]
fn user_coroutines_can_suspend_their_fiber() {
    gives(
        r#"local out = {}
        local co = coroutine.wrap(function(a) yield() local b = coroutine.yield(a + 1) yield() return b * 2 end)
        out[1] = co(1) yield() out[2] = co(21)
        local nested = coroutine.wrap(function() return coroutine.wrap(function() yield() return 'in' end)() end)
        out[3] = nested()
        local dead = coroutine.create(function() yield() error('oops', 0) end)
        out[4] = select(2, coroutine.resume(dead))
        return table.concat(out, ' ')"#,
        "2 42 in oops",
    );
}

#[test]
fn compiled_code_can_suspend() {
    gives(
        r#"jit.opt.start('hotloop=3', 'hotexit=2')
        local n = 0
        local function step(i) if i % 7 == 0 then yield() end return i end
        for round = 1, 3 do for i = 1, 1000 do n = n + step(i) end end
        return n"#,
        "1501500",
    );
}

#[test]
fn a_rust_error_has_the_callers_position() {
    let message = with_vm(|vm| error_of(vm, "\n\nfail('bad thing')"));
    assert!(message.starts_with("test:3: bad thing"), "{message}");
    assert!(message.contains("stack traceback"), "{message}");
}

#[test]
fn a_panic_becomes_a_lua_error_and_the_fiber_continues() {
    gives(
        "local ok, e = pcall(panic) yield() return tostring(ok) .. ' ' .. e",
        "false panic in panic: on purpose",
    );
}

#[test]
fn an_error_passes_through_nested_calls_of_all_kinds() {
    gives(
        r#"local ok, e = pcall(function()
            table.sort({3, 2, 1}, function(a, b)
                yield()
                return (('x'):gsub('x', function() yield() coroutine.wrap(function() yield() error('deep', 0)
                    end)() end))
            end)
        end)
        yield()
        return e"#,
        "test:5: deep",
    );
}

#[test]
fn errors_in_a_coroutine_leave_the_fiber_usable() {
    gives(
        r#"for i = 1, 100 do
            local co = coroutine.create(function() yield() if i % 2 == 0 then error({}) end coroutine.yield() end)
            coroutine.resume(co) yield()
        end return 'ok'"#,
        "ok",
    );
}
