//! No bytes make the decoder slow or greedy: maps of colliding keys are refused, memory is counted and limited, and
//! honest maps of any size pass.

mod common;

use common::codec::{decode_by, round};
use common::with_vm;
use yue_luajit::codec::{DecodeError, Limits};
use yue_luajit::{Codec, NoReferences, Vm};

/// LuaJIT's hash of the number with these halves (`hashrot` in lj_tab.h; the sign is shifted out).
fn hash(low: u32, high: u32) -> u32 {
    let mut high = high << 1;
    let mut low = low ^ high;
    high = high.rotate_left(14);
    low = low.wrapping_sub(high);
    high = high.rotate_left(5);
    high ^= low;
    high.wrapping_sub(low.rotate_left(13))
}

fn hash_of(number: f64) -> u32 {
    hash(number.to_bits() as u32, (number.to_bits() >> 32) as u32)
}

/// Numbers that all have this hash: `hash` backwards.
fn colliding(target: u32) -> impl Iterator<Item = f64> {
    (1u32..).filter_map(move |low| {
        let high = low ^ target.wrapping_add(low.rotate_left(13));
        let doubled = high.rotate_right(5).rotate_right(14);
        let high = doubled >> 1;
        let finite = (high >> 20) & 0x7ff != 0x7ff;
        let low = low.wrapping_add(doubled.rotate_left(14)) ^ doubled;
        (doubled & 1 == 0 && finite).then(|| f64::from_bits(u64::from(high) << 32 | u64::from(low)))
    })
}

fn map_header(count: usize) -> Vec<u8> {
    let count = u32::try_from(count).expect("a map's size");
    [&[0xdf][..], &count.to_be_bytes()].concat()
}

/// A map of these keys, each with the value true.
fn map_of(keys: impl IntoIterator<Item = f64>) -> Vec<u8> {
    let mut pairs = Vec::new();
    let mut count = 0;
    for key in keys {
        pairs.push(0xcb);
        pairs.extend_from_slice(&key.to_bits().to_be_bytes());
        pairs.push(0xc3);
        count += 1;
    }
    [map_header(count), pairs].concat()
}

/// With a limit on memory that the largest maps below stay under.
fn roomy(vm: &Vm) -> Codec {
    vm.codec().with_limits(Limits {
        decoded_bytes_max: 1 << 30,
        ..Limits::default()
    })
}

fn is_crowded(outcome: &Result<usize, DecodeError>) -> bool {
    matches!(outcome, Err(DecodeError::Crowded { .. }))
}

#[test]
fn a_map_of_colliding_doubles_is_refused() {
    let keys: Vec<f64> = colliding(0x1234_5678).take(5000).collect();
    assert!(keys.iter().all(|key| hash_of(*key) == 0x1234_5678));
    with_vm(move |vm| {
        let outcome = decode_by(vm, roomy(vm), &map_of(keys.iter().copied()));
        assert!(is_crowded(&outcome), "{outcome:?}");
        // Behind enough honest ones, too.
        let mixed = (0..50_000)
            .map(f64::from)
            .chain(keys.iter().copied())
            .chain((60_000..70_000).map(f64::from));
        let outcome = decode_by(vm, roomy(vm), &map_of(mixed));
        assert!(is_crowded(&outcome), "{outcome:?}");
    });
}

#[test]
fn a_map_of_integers_that_collide_in_the_bits_that_count_is_refused() {
    const COUNT: usize = 4000;
    let keys: Vec<f64> = (1..1 << 40)
        .map(|key: i64| key as f64)
        .filter(|key| hash_of(*key) & (COUNT.next_power_of_two() as u32 - 1) == 77)
        .take(COUNT)
        .collect();
    with_vm(move |vm| {
        let outcome = decode_by(vm, roomy(vm), &map_of(keys.iter().copied()));
        assert!(is_crowded(&outcome), "{outcome:?}");
    });
}

#[test]
fn many_small_crowded_maps_are_refused_as_one_large_one() {
    let crowded = map_of(colliding(99).take(1000));
    with_vm(move |vm| {
        let alone = decode_by(vm, roomy(vm), &crowded);
        assert!(alone.is_ok(), "a single one is accepted: {alone:?}");
        let mut all = vec![0xdc, 0, 100];
        (0..100).for_each(|_| all.extend_from_slice(&crowded));
        let outcome = decode_by(vm, roomy(vm), &all);
        assert!(is_crowded(&outcome), "{outcome:?}");
    });
}

#[test]
fn keys_that_sit_in_a_long_chain_by_turns_are_refused() {
    // The first thousand fill one chain from the table's last node downwards. Each of the others belongs where one of
    // those sits, and to move that one to the next free node the chain must be walked.
    const COUNT: u32 = 1 << 16;
    let chain = colliding(1).take(1000);
    let others = (0..COUNT - 1001).filter_map(|place| colliding(COUNT - 1 - place).next());
    let bytes = map_of(chain.chain(others));
    with_vm(move |vm| {
        let outcome = decode_by(vm, roomy(vm), &bytes);
        assert!(is_crowded(&outcome), "{outcome:?}");
    });
}

#[test]
fn honest_maps_of_a_million_entries_pass() {
    const COUNT: u64 = 1_000_000;
    // Made one by one, for each is ten megabytes.
    let mut random = 0x2545_f491_4f6c_dd1du64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let randoms: Vec<u64> = (0..COUNT).map(|_| next()).collect();
    with_vm(move |vm| {
        let each = |f: &dyn Fn(u64) -> f64| map_of((0..COUNT).map(f));
        let keys: [(&str, &dyn Fn(u64) -> f64); _] = [
            ("sequential", &|i| i as f64),
            ("from below zero", &|i| i as f64 - 500_000.0),
            ("random", &|i| (randoms[i as usize] >> 11) as f64 / 9e15),
            ("random ids", &|i| (randoms[i as usize] >> 11) as f64),
            ("ids", &|i| (9_000_000_000_000_000 + i) as f64),
            ("seconds", &|i| 1_764_430_000.0 + i as f64),
            ("milliseconds", &|i| 1_764_430_000_000.0 + i as f64),
            ("microseconds", &|i| {
                1_764_430_000_000_000.0 + 250.0 * i as f64
            }),
            ("half seconds", &|i| 1_764_430_000.0 + 0.5 * i as f64),
            ("snowflakes", &|i| {
                (((475_000_000_000 + i / 4) << 22) | (i % 4)) as f64
            }),
            ("tens", &|i| 1e7 * i as f64),
            ("fractions", &|i| 1.0 + i as f64 / f64::from(1u32 << 26)),
            ("a grid", &|i| (((i % 1024) << 32) | (i / 1024)) as f64),
        ];
        for (name, key) in keys {
            let outcome = decode_by(vm, roomy(vm), &each(key));
            assert!(outcome.is_ok(), "{name}: {outcome:?}");
        }
        for power in [1, 12, 20, 32, 44] {
            let step = (1u64 << power) as f64;
            let outcome = decode_by(vm, roomy(vm), &each(&|i| step * i as f64));
            assert!(outcome.is_ok(), "multiples of 2^{power}: {outcome:?}");
        }
        for (base, step) in [
            (0x7f12_3450_0000u64, 16),
            (0x5555_5555_0000, 16),
            (0x7f12_3450_0000, 64),
        ] {
            let outcome = decode_by(vm, roomy(vm), &each(&|i| (base + step * i) as f64));
            assert!(outcome.is_ok(), "addresses, each {step}: {outcome:?}");
        }
        // At every size, for bad hashes show at some.
        for bits in 1..20 {
            let pointers = map_of((0..1u64 << bits).map(|i| (0x7f12_3450_0000 + 16 * i) as f64));
            let outcome = decode_by(vm, roomy(vm), &pointers);
            assert!(outcome.is_ok(), "2^{bits} addresses: {outcome:?}");
        }
    });
}

#[test]
fn keys_of_every_type_find_their_values() {
    with_vm(|vm| {
        // -0.0 and 0 are one key, a later value replaces an earlier one, and a nil removes the key.
        for (bytes, back) in [
            (
                &b"\x82\xcb\x80\0\0\0\0\0\0\0\x01\x00\x02"[..],
                &b"\x81\x00\x02"[..],
            ),
            (b"\x82\xa1a\x01\xa1a\x02", b"\x81\xa1a\x02"),
            (b"\x82\xa1a\x01\xa1a\xc0", b"\x90"),
            (b"\x81\xa1a\xc0", b"\x90"),
            (b"\x82\xa1a\xc0\xa1b\x01", b"\x81\xa1b\x01"),
            (b"\x81\xc3\x01", b"\x81\xc3\x01"),
            (b"\x81\xc2\x01", b"\x81\xc2\x01"),
            (b"\x82\x01\x05\x02\x06", b"\x92\x05\x06"),
            (b"\x81\xff\x05", b"\x81\xff\x05"),
            (
                b"\x81\xcb\x3f\xf8\0\0\0\0\0\0\x05",
                b"\x81\xcb\x3f\xf8\0\0\0\0\0\0\x05",
            ),
            (
                b"\x81\xcf\xff\xff\xff\xff\xff\xff\xff\xff\x05",
                b"\x81\xcf\xff\xff\xff\xff\xff\xff\xff\xff\x05",
            ),
            (b"\x81\x91\x01\x05", b"\x81\x91\x01\x05"),
        ] {
            assert_eq!(
                round(vm, bytes, &NoReferences).expect("a map"),
                back,
                "{bytes:x?}"
            );
        }
    });
}

#[test]
fn values_beyond_the_memory_limit_are_refused() {
    with_vm(|vm| {
        let limits = Limits {
            decoded_bytes_max: 100_000,
            ..Limits::default()
        };
        let codec = vm.codec().with_limits(limits);
        let list = |count: u16, value: &[u8]| {
            let mut bytes = vec![0xdc];
            bytes.extend_from_slice(&count.to_be_bytes());
            (0..count).for_each(|_| bytes.extend_from_slice(value));
            bytes
        };
        for (name, value, fits, refused) in [
            ("empty arrays", &b"\x90"[..], 1000, 3000),
            ("empty maps", b"\x80", 1000, 3000),
            ("numbers", b"\x01", 12_000, 13_000),
            ("strings", b"\xa1x", 2000, 4000),
            ("maps of one", b"\x81\x01\x01", 500, 2000),
            ("int64s", b"\xcf\xff\0\0\0\0\0\0\0", 2000, 4000),
            ("exts", b"\xd4\x01\x01", 1000, 3000),
        ] {
            let outcome = decode_by(vm, codec, &list(fits, value));
            assert!(outcome.is_ok(), "{name}: {outcome:?}");
            let outcome = decode_by(vm, codec, &list(refused, value));
            assert!(
                matches!(outcome, Err(DecodeError::TooLarge { limit: 100_000, .. })),
                "{name}: {outcome:?}"
            );
        }
        // Refused by its header, before anything is made.
        let mut map = map_header(30_000);
        map.resize(map.len() + 60_000, 1);
        let outcome = decode_by(vm, codec, &map);
        assert_eq!(
            outcome,
            Err(DecodeError::TooLarge {
                at: 0,
                limit: 100_000
            })
        );
    });
}

#[test]
fn the_estimate_is_what_the_values_really_take() {
    with_vm(|vm| {
        let codec = roomy(vm);
        let list = |value: &dyn Fn(u32) -> Vec<u8>| {
            let mut bytes = vec![0xdd, 0, 1, 0, 0];
            (0..1 << 16).for_each(|i| bytes.extend_from_slice(&value(i)));
            bytes
        };
        let string = |i: u32| [&[0xa5, b'#'][..], &i.to_be_bytes()].concat();
        for (name, bytes) in [
            ("numbers", list(&|_| vec![1])),
            ("empty arrays", list(&|_| vec![0x90])),
            ("small arrays", list(&|_| vec![0x93, 1, 2, 3])),
            ("small maps", list(&|_| vec![0x82, 1, 2, 3, 4])),
            ("strings", list(&string)),
            ("int64s", list(&|_| vec![0xcf, 255, 0, 0, 0, 0, 0, 0, 0])),
            ("exts", list(&|_| vec![0xd4, 1, 1])),
            ("a map", map_of((0..1 << 16).map(f64::from))),
        ] {
            vm.protect(|stack| {
                // SAFETY: protected, on the main state; the collector must not free anything meanwhile.
                unsafe { yue_luajit::ffi::lua_gc(stack.raw(), yue_luajit::ffi::LUA_GCCOLLECT, 0) };
                // SAFETY: as above.
                unsafe { yue_luajit::ffi::lua_gc(stack.raw(), yue_luajit::ffi::LUA_GCSTOP, 0) };
            })
            .expect("no Lua error");
            let before = vm.memory();
            let estimate = decode_by(vm, codec, &bytes).expect("they fit");
            let taken = vm.memory() - before;
            vm.protect(|stack| {
                // SAFETY: as above.
                unsafe { yue_luajit::ffi::lua_gc(stack.raw(), yue_luajit::ffi::LUA_GCRESTART, 0) };
            })
            .expect("no Lua error");
            assert!(
                taken <= estimate + estimate / 8 && estimate <= 2 * taken,
                "{name}: estimated {estimate}, taken {taken}"
            );
        }
    });
}
