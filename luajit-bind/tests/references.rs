//! Functions cross as references, and their owner keeps each of them while the peer holds it.

mod common;

use common::codec::{Table, encode_with, lua_fiber, round};
use common::{eval, with_vm};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_int;
use std::rc::Rc;
use yue_luajit::codec::{EncodeFault, NotGiven, Object, Owner, Reader, Reference};
use yue_luajit::{Exports, ReferenceTable, Stack, Vm, ffi};

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

/// A connection's table like that of a layer above: this side's functions are anchored in `exports` and counted in
/// `counts`.
struct Home {
    exports: RefCell<Exports>,
    counts: RefCell<HashMap<u64, u64>>,
}

impl Home {
    fn new(vm: &Vm) -> Home {
        Home {
            exports: RefCell::new(Exports::new(vm)),
            counts: RefCell::default(),
        }
    }

    fn release(&self, id: u64) {
        let mut counts = self.counts.borrow_mut();
        let count = counts.get_mut(&id).expect("it was given");
        *count -= 1;
        if *count == 0 {
            counts.remove(&id);
            self.exports.borrow_mut().release(id as u32);
        }
    }

    fn held(&self) -> usize {
        self.exports.borrow().len()
    }
}

impl ReferenceTable for Home {
    fn give(&self, object: Object) -> Result<Reference, NotGiven> {
        let (slot, _) = self
            .exports
            .borrow_mut()
            .anchor(object)
            .ok_or(NotGiven::NoRoom)?;
        let id = u64::from(slot);
        *self.counts.borrow_mut().entry(id).or_default() += 1;
        Ok(Reference {
            owner: Owner::Sender,
            id,
        })
    }

    fn take_back(&self, reference: Reference) {
        self.release(reference.id);
    }

    fn arrive(&self, stack: Stack<'_>, reference: Reference) -> bool {
        let slot = reference.id as u32;
        reference.owner == Owner::Receiver && self.exports.borrow().push(stack, slot)
    }
}

/// The bytes of a reference that the peer sends back.
fn sent_back(mut bytes: Vec<u8>) -> Vec<u8> {
    assert_eq!(bytes[2], 1, "the sender owns it");
    bytes[2] = 2;
    bytes
}

/// Decodes one value into the global `back`.
fn set_back(vm: &Vm, bytes: &[u8], refs: &dyn ReferenceTable) {
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

/// Runs `body` with a table that has room for 31 functions.
fn with_home(body: impl FnOnce(&Vm, &Home) + 'static) {
    with_vm(|vm| {
        let vm = vm.clone();
        lua_fiber(move || {
            let home = Home::new(&vm);
            assert!(Exports::grow(&home.exports));
            body(&vm, &home);
        });
    });
}

#[test]
fn a_function_that_returns_to_its_owner_is_the_original() {
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
        assert_eq!(home.held(), 1);
        let alive = "(function() collectgarbage() collectgarbage() return weak[1] ~= nil end)()";
        assert_eq!(encode_with(vm, alive, home).expect("a boolean"), [0xc3]);
        let id = u64::from(bytes[9]);
        home.release(id);
        assert_eq!(encode_with(vm, alive, home).expect("a boolean"), [0xc3]);
        home.release(id);
        assert_eq!(encode_with(vm, alive, home).expect("a boolean"), [0xc2]);
        assert_eq!(home.held(), 0);
    });
}

#[test]
fn exports_grow_when_asked_and_survive_it() {
    with_home(|vm, home| {
        let many = "(function() list = {} for i = 1, 100 do list[i] = function() return i end end return list end)()";
        let error = encode_with(vm, many, home).expect_err("no room for a hundred");
        assert_eq!(error.fault, EncodeFault::NoRoom);
        assert_eq!(home.held(), 0, "what was given is taken back");
        assert!(Exports::grow(&home.exports) && Exports::grow(&home.exports));
        let bytes = encode_with(vm, many, home).expect("room for a hundred");
        assert!(Exports::grow(&home.exports), "the anchors move");
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
    });
}

#[test]
fn a_finalizer_that_runs_while_room_is_made_can_release_and_grow() {
    thread_local!(static HOME: RefCell<Option<Rc<Home>>> = const { RefCell::new(None) });
    unsafe extern "C-unwind" fn finalizer(_: *mut ffi::lua_State) -> c_int {
        let home = HOME.with_borrow(Clone::clone).expect("a table");
        home.exports.borrow_mut().release(1);
        assert!(Exports::grow(&home.exports));
        0
    }
    with_vm(|vm| {
        let vm = vm.clone();
        lua_fiber(move || {
            let home = Rc::new(Home::new(&vm));
            assert!(Exports::grow(&home.exports));
            encode_with(&vm, "print, tostring", &*home).expect("two references");
            HOME.set(Some(home.clone()));
            vm.protect(|stack| {
                // SAFETY: protected.
                unsafe {
                    ffi::lua_pushcclosure(stack.raw(), finalizer, 0);
                    ffi::lua_setfield(stack.raw(), ffi::LUA_GLOBALSINDEX, c"finalizer".as_ptr());
                }
            })
            .expect("a global");
            // Garbage with that finalizer, which the next allocation collects.
            let garbage =
                "(function() collectgarbage('stop') getmetatable(newproxy(true)).__gc = finalizer
                collectgarbage('setstepmul', 1000000) collectgarbage('restart') end)()";
            encode_with(&vm, garbage, &*home).expect("nothing");
            assert_eq!(home.held(), 2, "the finalizer waits for an allocation");
            while home.held() == 2 {
                assert!(Exports::grow(&home.exports));
            }
            assert_eq!(home.held(), 1, "the finalizer ran");
            HOME.set(None);
        });
    });
}

#[test]
fn releases_of_anything_do_no_harm() {
    with_home(|vm, home| {
        encode_with(vm, "print", home).expect("a reference");
        for slot in [0, u32::MAX, 77, 1, 1] {
            home.exports.borrow_mut().release(slot);
        }
        assert_eq!(home.held(), 0);
        home.counts.take();
        let bytes = encode_with(vm, "print", home).expect("a reference again");
        set_back(vm, &sent_back(bytes), home);
    });
}

#[test]
fn a_dropped_table_releases_its_functions() {
    let alive = with_vm(|vm| {
        let in_fiber = vm.clone();
        lua_fiber(move || {
            let home = Home::new(&in_fiber);
            assert!(Exports::grow(&home.exports));
            let make = "(function() weak = setmetatable({}, {__mode = 'v'}) weak[1] = function() return weak end
                return weak[1] end)()";
            encode_with(&in_fiber, make, &home).expect("a reference");
        });
        eval(
            vm,
            "collectgarbage() collectgarbage() return weak[1] ~= nil",
        )
    });
    assert_eq!(alive, "false");
}
