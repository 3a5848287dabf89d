//! Any value survives the round trip; no bytes do harm.

mod common;

use common::codec::{Table, round};
use common::{eval, with_vm};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use yue_luajit::NoReferences;
use yue_luajit::codec::Reader;

/// A msgpack value as it is compared: what Lua cannot tell apart is one thing here.
fn any_value() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        Just(vec![0xc0]),
        any::<bool>().prop_map(|b| vec![0xc2 + u8::from(b)]),
        any::<i64>().prop_map(|n| encoded(|out| rmp::encode::write_sint(out, n).map(drop))),
        any::<u64>().prop_map(|n| encoded(|out| rmp::encode::write_uint(out, n).map(drop))),
        (-70_000i64..70_000).prop_map(|n| encoded(|out| rmp::encode::write_sint(out, n).map(drop))),
        any::<f64>()
            .prop_filter("integral numbers have another form", |n| n.fract() != 0.0)
            .prop_map(|n| encoded(|out| rmp::encode::write_f64(out, n))),
        any::<String>().prop_map(|s| encoded(|out| rmp::encode::write_str(out, &s))),
        prop::collection::vec(any::<u8>(), 0..300)
            .prop_filter("valid UTF-8 has another form", |b| std::str::from_utf8(b)
                .is_err())
            .prop_map(|b| encoded(|out| rmp::encode::write_bin(out, &b))),
        (any::<i8>(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_filter("ours", |(code, _)| *code != 0x59)
            .prop_map(|(code, body)| {
                let mut bytes = encoded(|out| {
                    rmp::encode::write_ext_meta(out, body.len() as u32, code).map(drop)
                });
                bytes.extend(body);
                bytes
            }),
    ];
    leaf.prop_recursive(4, 64, 20, |inner| {
        let sequence =
            prop::collection::vec(inner.clone().prop_filter("a hole", |v| v[0] != 0xc0), 0..20);
        let map = ("[a-z]{1,8}", inner.prop_filter("a hole", |v| v[0] != 0xc0));
        prop_oneof![
            sequence.prop_map(|items| {
                let mut bytes =
                    encoded(|out| rmp::encode::write_array_len(out, items.len() as u32).map(drop));
                bytes.extend(items.into_iter().flatten());
                bytes
            }),
            map.prop_map(|(key, value)| {
                let mut bytes = encoded(|out| {
                    rmp::encode::write_map_len(out, 1)?;
                    rmp::encode::write_str(out, &key)
                });
                bytes.extend(value);
                bytes
            }),
        ]
    })
}

fn encoded<E: std::fmt::Debug>(write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut bytes).expect("a Vec takes all");
    bytes
}

#[test]
fn any_value_survives_the_round_trip() {
    with_vm(|vm| {
        let mut runner = TestRunner::new(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        runner
            .run(&any_value(), |bytes| {
                prop_assert_eq!(round(vm, &bytes, &NoReferences), Ok(bytes));
                Ok(())
            })
            .expect("all survive");
    });
}

#[test]
fn no_bytes_do_harm() {
    with_vm(|vm| {
        let mut runner = TestRunner::new(ProptestConfig {
            failure_persistence: None,
            cases: 20_000,
            ..ProptestConfig::default()
        });
        let codec = vm.codec();
        let table = Table {
            limit: usize::MAX,
            ..Table::default()
        };
        let bytes = prop::collection::vec(
            prop_oneof![
                any::<u8>(),
                Just(0x91u8),
                Just(0x81),
                Just(0xd7),
                Just(0x59),
                0xc0u8..0xe0
            ],
            0..200,
        );
        runner
            .run(&bytes, |bytes| {
                let bytes: &[u8] = &bytes;
                // Whatever they say: values or an error, and nothing read beyond the end.
                let outcome = vm.protect(|stack| {
                    let mut reader = Reader::new(bytes);
                    let result = codec.decode_values(stack, &mut reader, 1, &table);
                    (result.is_ok(), reader.position())
                });
                let (ok, position) = outcome.expect("no Lua error");
                prop_assert!(position <= bytes.len());
                prop_assert!(!ok || position > 0);
                Ok(())
            })
            .expect("none do");
        eval(vm, "collectgarbage() yield() collectgarbage()");
    });
}
