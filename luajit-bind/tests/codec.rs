//! Values take their documented form; bad values are named by their path, bad bytes by what is wrong with them.

mod common;

use common::codec::{encode, encode_by, lua_fiber, round, round_by};
use common::{eval, with_vm};
use yue_luajit::codec::{DecodeError, EncodeFault, Limits, Reader};
use yue_luajit::{NoReferences, ffi};

#[test]
fn values_take_their_documented_form() {
    with_vm(|vm| {
        for (source, bytes) in [
            ("nil, true, false", &b"\xc0\xc3\xc2"[..]),
            (
                "0, 127, 128, 255, 256, 65535, 65536",
                b"\x00\x7f\xcc\x80\xcc\xff\xcd\x01\x00\xcd\xff\xff\xce\x00\x01\x00\x00",
            ),
            (
                "-1, -32, -33, -128, -129, -32769",
                b"\xff\xe0\xd0\xdf\xd0\x80\xd1\xff\x7f\xd2\xff\xff\x7f\xff",
            ),
            (
                "2^32, 2^53",
                b"\xcf\0\0\0\x01\0\0\0\0\xcf\0\x20\0\0\0\0\0\0",
            ),
            ("-2^31 - 1", b"\xd3\xff\xff\xff\xff\x7f\xff\xff\xff"),
            ("2^54", b"\xcb\x43\x50\0\0\0\0\0\0"),
            (
                "0.5, -0.0",
                b"\xcb\x3f\xe0\0\0\0\0\0\0\xcb\x80\0\0\0\0\0\0\0",
            ),
            ("1/0", b"\xcb\x7f\xf0\0\0\0\0\0\0"),
            (
                "5LL, 2^53 + 0LL, 9007199254740993LL",
                b"\x05\xcf\0\x20\0\0\0\0\0\0\xcf\0\x20\0\0\0\0\0\x01",
            ),
            (
                "-9007199254740993LL",
                b"\xd3\xff\xdf\xff\xff\xff\xff\xff\xff",
            ),
            (
                "18446744073709551615ULL",
                b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
            ),
            ("'', 'abc', 'gr\\195\\188n'", b"\xa0\xa3abc\xa5gr\xc3\xbcn"),
            ("'\\255\\254'", b"\xc4\x02\xff\xfe"),
            ("('x'):rep(32)", b"\xd9\x20xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
            (
                "{}, {1, 2, 3}, {'a', {true}}",
                b"\x90\x93\x01\x02\x03\x92\xa1a\x91\xc3",
            ),
            (
                "{a = 1}, {[2] = 1}, {[0] = 1}",
                b"\x81\xa1a\x01\x81\x02\x01\x81\x00\x01",
            ),
            (
                "{[1.5] = 1}, {[true] = 2}",
                b"\x81\xcb\x3f\xf8\0\0\0\0\0\0\x01\x81\xc3\x02",
            ),
            (
                "setmetatable({1}, {__index = error, __len = error, __pairs = error})",
                b"\x91\x01",
            ),
        ] {
            assert_eq!(encode(vm, source).expect(source), bytes, "{source}");
        }
    });
}

#[test]
fn a_sequence_is_found_wherever_its_elements_are_kept() {
    with_vm(|vm| {
        let filled = "(function() local t = {} for i = 100, 1, -1 do t[i] = i end return t end)()";
        assert_eq!(encode(vm, filled).expect("a sequence")[..3], [0xdc, 0, 100]);
        let holed =
            "(function() local t = {} for i = 1, 20 do t[i] = i end t[7] = nil return t end)()";
        assert_eq!(encode(vm, holed).expect("a map")[..3], [0xde, 0, 19]);
        let emptied =
            "(function() local t = {1, 2, a = 1} t[1], t[2], t.a = nil, nil, nil return t end)()";
        assert_eq!(encode(vm, emptied).expect("an empty table"), [0x90]);
    });
}

#[test]
fn a_marked_table_is_a_map() {
    with_vm(|vm| {
        let codec = vm.codec();
        vm.protect(|stack| {
            // SAFETY: protected.
            unsafe {
                ffi::lua_createtable(stack.raw(), 0, 0);
                codec.mark_map(stack, -1);
                ffi::lua_setfield(stack.raw(), ffi::LUA_GLOBALSINDEX, c"marked".as_ptr());
            }
        })
        .expect("a global");
        assert_eq!(encode(vm, "marked").expect("a map"), [0x80]);
        assert_eq!(
            encode(vm, "(function() marked[1] = 5 return marked end)()").expect("a map"),
            [0x81, 1, 5]
        );
    });
}

#[test]
fn a_bad_value_is_named_by_its_path() {
    with_vm(|vm| {
        for (source, path, fault) in [
            (
                "1, {items = {1, 2, 3, 4, 5, 6, print}}",
                "args[2].items[7]",
                EncodeFault::FunctionRefused,
            ),
            (
                "coroutine.create(print)",
                "args[1]",
                EncodeFault::Unsupported("coroutine"),
            ),
            (
                "{['odd key'] = io.stdout}",
                "args[1][\"odd key\"]",
                EncodeFault::Unsupported("userdata"),
            ),
            (
                "{[1.5] = {[true] = require('ffi').new('int[2]')}}",
                "args[1][1.5][true]",
                EncodeFault::Unsupported("cdata"),
            ),
            (
                "(function() local t = {} t.me = t return t end)()",
                "args[1].me",
                EncodeFault::Cycle,
            ),
            (
                "(function() local t = {} t.a = {b = {c = t}} return {x = t} end)()",
                "args[1].x.a.b.c",
                EncodeFault::Cycle,
            ),
        ] {
            let error = encode(vm, source).expect_err(source);
            assert_eq!(
                (error.path.as_str(), error.fault),
                (path, fault),
                "{source}"
            );
        }
        let deep = "(function() local t = {} for i = 1, 200 do t = {t} end return t end)()";
        let error = encode(vm, deep).expect_err("too deep");
        assert_eq!(error.fault, EncodeFault::TooDeep(128));
    });
}

#[test]
fn the_nesting_limit_is_the_same_both_ways_and_can_be_set() {
    with_vm(|vm| {
        let limits = Limits {
            nesting_max: 3,
            ..Limits::default()
        };
        let nested = |levels: usize| format!("{}{}", "{".repeat(levels), "}".repeat(levels));
        let codec = vm.codec().with_limits(limits);
        let encode = |levels| {
            let (vm, source) = (vm.clone(), nested(levels));
            lua_fiber(move || encode_by(&vm, codec, &source, &NoReferences))
        };
        let bytes = encode(3).expect("three levels");
        assert_eq!(
            round_by(vm, codec, &bytes, &NoReferences).expect("three levels"),
            bytes
        );
        assert_eq!(
            encode(4).expect_err("four levels").fault,
            EncodeFault::TooDeep(3)
        );
        let error =
            round_by(vm, codec, b"\x91\x91\x91\x90", &NoReferences).expect_err("four levels");
        assert_eq!(error, DecodeError::TooDeep { at: 3, limit: 3 });
    });
}

#[test]
fn nesting_is_refused_where_the_native_stack_ends_whatever_the_limit() {
    with_vm(|vm| {
        let limits = Limits {
            nesting_max: u32::MAX,
            ..Limits::default()
        };
        let codec = vm.codec().with_limits(limits);
        let vm = vm.clone();
        lua_fiber(move || {
            let source =
                "(function() local t = {} for i = 1, 200000 do t = {t} end return t end)()";
            let error = encode_by(&vm, codec, source, &NoReferences).expect_err("too deep");
            assert!(
                matches!(error.fault, EncodeFault::TooDeep(levels) if levels > 128),
                "{error}"
            );
        });
    });
}

#[test]
fn ten_thousand_nested_arrays_are_refused() {
    with_vm(|vm| {
        let error = round(vm, &[0x91; 10_000], &NoReferences).expect_err("too deep");
        assert_eq!(
            error,
            DecodeError::TooDeep {
                at: 128,
                limit: 128
            }
        );
    });
}

#[test]
fn malformed_bytes_are_refused_by_name() {
    with_vm(|vm| {
        for (bytes, error) in [
            (&b"\xc1"[..], DecodeError::BadMarker { at: 0 }),
            (b"\x01\xcd\x01", DecodeError::Truncated { at: 1 }),
            (b"\xdb\xff\xff\xff\xff", DecodeError::Truncated { at: 0 }),
            (b"\xdd\xff\xff\xff\xff", DecodeError::Truncated { at: 0 }),
            (b"\xdf\xff\xff\xff\xff", DecodeError::Truncated { at: 0 }),
            (
                b"\xc9\xff\xff\xff\xff\x01",
                DecodeError::Truncated { at: 0 },
            ),
            (b"\x81\xc0\x01", DecodeError::BadKey { at: 1 }),
            (
                b"\x81\xcb\x7f\xf8\0\0\0\0\0\0\x01",
                DecodeError::BadKey { at: 1 },
            ),
            (b"\xd4\x59\x01", DecodeError::BadReference { at: 2 }),
            (
                b"\xd7\x59\x09\0\0\0\0\0\0\x01",
                DecodeError::BadReference { at: 2 },
            ),
            (
                b"\xd7\x59\x01\0\0\0\0\0\0\x05",
                DecodeError::UnknownReference { at: 2, id: 5 },
            ),
        ] {
            assert_eq!(
                round(vm, bytes, &NoReferences).expect_err("malformed"),
                error,
                "{bytes:x?}"
            );
        }
    });
}

#[test]
fn odd_nans_become_numbers() {
    with_vm(|vm| {
        for bytes in [
            b"\xcb\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\xcb\xff\xf9\0\0\0\0\0\x01",
            b"\xcb\x7f\xf0\0\0\0\0\0\x01",
        ] {
            let out = round(vm, bytes, &NoReferences).expect("a number");
            assert!(f64::from_be_bytes(out[1..].try_into().expect("nine bytes")).is_nan());
        }
    });
}

#[test]
fn foreign_ext_values_go_out_as_they_came_in() {
    with_vm(|vm| {
        for bytes in [
            &b"\xd4\x00\x2a"[..],
            b"\xd6\xff\x01\x02\x03\x04",
            b"\xc7\x03\x08abc",
            b"\xc7\x00\x01",
            b"\xd8\x02abcdefghijklmnop",
        ] {
            assert_eq!(round(vm, bytes, &NoReferences).expect("an ext"), bytes);
        }
        let codec = vm.codec();
        vm.protect(|stack| {
            codec
                .decode_values(
                    stack,
                    &mut Reader::new(b"\xc7\x03\x08abc"),
                    1,
                    &NoReferences,
                )
                .expect("an ext");
            // SAFETY: protected.
            unsafe { ffi::lua_setfield(stack.raw(), ffi::LUA_GLOBALSINDEX, c"ext".as_ptr()) };
        })
        .expect("a global");
        assert_eq!(
            eval(
                vm,
                "return tostring(ext) .. ext.type .. ext.data .. tostring(ext.x)"
            ),
            "ext(8, 3 bytes)8abcnil"
        );
    });
}

#[test]
fn every_cut_of_a_message_is_refused() {
    with_vm(|vm| {
        let source = "{a = {1, 2.5, 'text', {b = '\\255', c = 12345678901234LL}}, [7] = {true, false, -200}}";
        let whole = encode(vm, source).expect("a table");
        for cut in 1..whole.len() {
            let error = round(vm, &whole[..cut], &NoReferences).expect_err("a cut message");
            assert!(
                matches!(error, DecodeError::Truncated { .. }),
                "{cut}: {error}"
            );
        }
    });
}
