//! Functions cross as references, and the owner keeps each as long as the other side holds it.

mod common;

use common::codec::{Table, encode_with, lua_fiber, round};
use common::with_vm;

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
            assert_eq!(*table.taken_back.borrow(), *table.given.borrow());
        });
    });
}
