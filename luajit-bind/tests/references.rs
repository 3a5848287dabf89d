//! Functions cross as references, and the owner keeps each as long as the other side holds it.

mod common;

use common::codec::{Table, encode_with, lua_fiber, round};
use common::{eval, with_vm};
use std::cell::RefCell;
use yue_luajit::codec::{Object, Owner, Reader, Ref};
use yue_luajit::{Exports, RefTable, Stack, Vm, ffi};

#[test]
fn functions_cross_as_references() {
    with_vm(|vm| {
        let vm = vm.clone();
        lua_fiber(move || {
            let table = Table {
                limit: 10,
                ..Table::default()
            };
            let bytes =
                encode_with(&vm, "print, {f = function() end}", &table).expect("references");
            assert_eq!(
                bytes,
                b"\xd7\x59\x01\0\x01\0\0\0\0\0\x81\xa1f\xd7\x59\x01\0\x01\0\0\0\0\x01"
            );
            assert_eq!(
                round(&vm, &bytes[..10], &table).expect("a reference"),
                b"\xcf\0\0\x01\0\0\0\0\0"
            );
        });
    });
}

#[test]
fn references_of_a_message_that_fails_are_taken_back() {
    with_vm(|vm| {
        let vm = vm.clone();
        lua_fiber(move || {
            let table = Table {
                limit: 2,
                ..Table::default()
            };
            let error =
                encode_with(&vm, "print, {print, print}", &table).expect_err("a third function");
            assert_eq!(error.path, "args[2][2]");
            let mut given = table.given.take();
            given.reverse();
            assert_eq!(*table.taken_back.borrow(), given, "the last comes first");
        });
    });
}

/// A connection's table as a layer above would have it: our functions in `Exports`, everything comes home.
struct Home(RefCell<Exports>);

impl RefTable for Home {
    fn give(&self, object: Object) -> Option<Ref> {
        self.0.borrow_mut().give(object).map(|id| Ref {
            owner: Owner::Sender,
            id,
        })
    }

    fn take_back(&self, reference: Ref) {
        self.0.borrow_mut().release(reference.id, 1);
    }

    fn arrive(&self, stack: Stack<'_>, reference: Ref) -> bool {
        reference.owner == Owner::Receiver && self.0.borrow().push(stack, reference.id)
    }
}

/// The bytes of a reference as the other side sends it back.
fn sent_back(mut bytes: Vec<u8>) -> Vec<u8> {
    assert_eq!(bytes[2], 1, "the sender owns it");
    bytes[2] = 2;
    bytes
}

/// Decodes one value into the global `back`.
fn set_back(vm: &Vm, bytes: &[u8], refs: &dyn RefTable) {
    let codec = vm.codec();
    vm.protect(|stack| {
        codec
            .decode_values(stack, &mut Reader::new(bytes), 1, refs)
            .expect("it is known");
        // SAFETY: protected.
        unsafe { ffi::lua_setfield(stack.raw(), ffi::LUA_GLOBALSINDEX, c"back".as_ptr()) };
    })
    .expect("no Lua error");
}

/// Runs `body` with a table that has room for four functions.
fn with_home(body: impl FnOnce(&Vm, &Home) + 'static) {
    with_vm(|vm| {
        let vm = vm.clone();
        lua_fiber(move || {
            let mut exports = Exports::with_max(&vm, 1000);
            assert!(exports.make_room(4));
            body(&vm, &Home(RefCell::new(exports)));
        });
    });
}

#[test]
fn a_function_that_comes_home_is_the_function_itself() {
    with_home(|vm, home| {
        let bytes = encode_with(
            vm,
            "(function() original = function() return 'me' end return original end)()",
            home,
        );
        set_back(vm, &sent_back(bytes.expect("a reference")), home);
        encode_with(vm, "assert(back == original and back() == 'me')", home)
            .expect("it is the same");
    });
}

#[test]
fn an_export_keeps_its_function_alive_until_the_last_release() {
    with_home(|vm, home| {
        let make = "(function() weak = setmetatable({}, {__mode = 'v'}) weak[1] = function() return weak end
            return weak[1], weak[1] end)()";
        let bytes = encode_with(vm, make, home).expect("two references");
        assert_eq!(bytes[..10], bytes[10..], "one function has one id");
        assert_eq!(home.0.borrow().len(), 1);
        let alive = "(function() collectgarbage() collectgarbage() return weak[1] ~= nil end)()";
        assert_eq!(encode_with(vm, alive, home).expect("a boolean"), [0xc3]);
        let id = u64::from(bytes[9]);
        home.0.borrow_mut().release(id, 1);
        assert_eq!(encode_with(vm, alive, home).expect("a boolean"), [0xc3]);
        home.0.borrow_mut().release(id, 1);
        assert_eq!(encode_with(vm, alive, home).expect("a boolean"), [0xc2]);
        assert!(home.0.borrow().is_empty());
    });
}

#[test]
fn exports_grow_when_asked_and_survive_it() {
    with_home(|vm, home| {
        let many = "(function() list = {} for i = 1, 100 do list[i] = function() return i end end return list end)()";
        encode_with(vm, many, home).expect_err("no room for a hundred");
        assert!(home.0.borrow().is_empty(), "what was given is taken back");
        assert!(home.0.borrow_mut().make_room(100));
        let bytes = encode_with(vm, many, home).expect("room for a hundred");
        assert!(home.0.borrow_mut().make_room(500), "the anchors move");
        set_back(
            vm,
            &sent_back(bytes[3 + 42 * 10..3 + 43 * 10].to_vec()),
            home,
        );
        encode_with(
            vm,
            "collectgarbage(), assert(back() == 43 and back == list[43])",
            home,
        )
        .expect("number 43");
        assert!(!home.0.borrow_mut().make_room(2000), "beyond the limit");
    });
}

#[test]
fn releases_of_anything_do_no_harm() {
    with_home(|vm, home| {
        encode_with(vm, "print", home).expect("a reference");
        for (id, count) in [(0, 1), (u64::MAX, 5), (77, 1), (1, u64::MAX), (1, 1)] {
            home.0.borrow_mut().release(id, count);
        }
        assert!(home.0.borrow().is_empty());
        let bytes = encode_with(vm, "print", home).expect("a reference again");
        set_back(vm, &sent_back(bytes), home);
    });
}

#[test]
fn a_dropped_table_lets_its_functions_go() {
    let alive = with_vm(|vm| {
        let in_fiber = vm.clone();
        lua_fiber(move || {
            let mut exports = Exports::new(&in_fiber);
            assert!(exports.make_room(1));
            let make = "(function() weak = setmetatable({}, {__mode = 'v'}) weak[1] = function() return weak end
                return weak[1] end)()";
            encode_with(&in_fiber, make, &Home(RefCell::new(exports))).expect("a reference");
        });
        eval(
            vm,
            "collectgarbage() collectgarbage() return weak[1] ~= nil",
        )
    });
    assert_eq!(alive, "false");
}
