//! JSON beside another implementation: the same texts are accepted, with the same values; no bytes do harm.

mod common;

use common::with_vm;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Number, Value};
use yue_luajit::Vm;
use yue_luajit::json::{JsonFault, JsonStyle};

/// Decodes a text on the main state and encodes the value again, with sorted keys.
fn round(vm: &Vm, text: &[u8], indent: &[u8]) -> Result<Vec<u8>, JsonFault> {
    let mut out = Vec::new();
    let (sink, codec) = (&raw mut out, vm.codec());
    let decoded = vm.protect(|stack| {
        codec.decode_json(stack, text)?;
        let style = JsonStyle {
            indent,
            sort: true,
            refuse: None,
        };
        // SAFETY: `out` outlives the call; the value is at 1; encoding raises nothing.
        unsafe {
            codec
                .encode_json(stack.raw(), 1, style, &mut *sink)
                .expect("what was decoded can be encoded");
        }
        Ok(())
    });
    decoded.expect("no Lua error").map(|()| out)
}

/// Whether both are the same. Lua does not distinguish 1.0 from 1, and serde_json reads doubles with an error in the
/// last digit; the exact ones are tested in `yue/tests/lua/json.lua`.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            let (a, b) = (a.as_f64().expect("a double"), b.as_f64().expect("a double"));
            (a - b).abs() <= a.abs() * 1e-14
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let pairs = || a.iter().zip(b);
            a.len() == b.len() && pairs().all(|(a, b)| a.0 == b.0 && same(a.1, b.1))
        }
        _ => a == b,
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1000i32..1000).prop_map(Value::from),
        any::<f64>().prop_map(|n| Number::from_f64(n).map_or(Value::Null, Value::Number)),
        any::<String>().prop_map(Value::from),
        "[a-z\"\\\\\n\u{e9}]{0,60}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 200, 70, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..70).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..40)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Runs the property with a fresh VM.
fn check<S: Strategy + 'static>(strategy: S, property: impl Fn(&Vm, S::Value) + 'static)
where
    S::Value: std::fmt::Debug,
{
    with_vm(move |vm| {
        let outcome = TestRunner::default().run(&strategy, |value| {
            property(vm, value);
            Ok(())
        });
        outcome.unwrap_or_else(|failure| panic!("{failure}"));
    });
}

#[test]
fn every_value_survives() {
    check((any_value(), any::<bool>()), |vm, (value, is_pretty)| {
        let text = if is_pretty {
            serde_json::to_vec_pretty(&value)
        } else {
            serde_json::to_vec(&value)
        };
        let indent: &[u8] = if is_pretty { b"  " } else { b"" };
        let again = round(vm, &text.expect("a text"), indent).expect("a valid text");
        let back: Value = serde_json::from_slice(&again).expect("ours is valid");
        assert!(same(&back, &value), "{back} is not {value}");
    });
}

/// A small edit of a text.
#[derive(Clone, Debug)]
enum Edit {
    Remove(usize, usize),
    Insert(usize, Vec<u8>),
    Cut(usize),
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let piece = prop_oneof![
        "[\\[\\]{}:,\"\\\\ue0-9.+ -]{1,3}".prop_map(String::into_bytes),
        "(true|null|\\\\u[0-9a-fD]{4}|\\\\ud83d|\\\\ude00|1e400|-0|\n|\t)"
            .prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 1..3),
    ];
    prop_oneof![
        (any::<usize>(), 1usize..4).prop_map(|(at, count)| Edit::Remove(at, count)),
        (any::<usize>(), piece).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        any::<usize>().prop_map(Edit::Cut),
    ]
}

fn apply(text: &mut Vec<u8>, edit: Edit) {
    let length = text.len() + 1;
    match edit {
        Edit::Remove(at, count) => {
            let at = at % length;
            text.drain(at..(at + count).min(text.len()));
        }
        Edit::Insert(at, bytes) => {
            let at = at % length;
            text.splice(at..at, bytes);
        }
        Edit::Cut(at) => text.truncate(at % length),
    }
}

#[test]
fn the_same_texts_are_accepted_as_by_another_parser() {
    let edits = prop::collection::vec(any_edit(), 1..4);
    check((any_value(), edits), |vm, (value, edits)| {
        let mut text = serde_json::to_vec(&value).expect("a text");
        edits.into_iter().for_each(|edit| apply(&mut text, edit));
        let theirs = serde_json::from_slice::<Value>(&text);
        match (round(vm, &text, b""), theirs) {
            (Ok(again), Ok(theirs)) => {
                let back: Value = serde_json::from_slice(&again).expect("ours is valid");
                assert!(same(&back, &theirs), "{back} is not {theirs}");
            }
            (Err(fault), Err(_)) => {
                assert!(fault.at <= text.len());
                assert!(fault.describe(&text).starts_with("line "));
            }
            (ours, theirs) => panic!("{ours:?} but {theirs:?}: {}", text.escape_ascii()),
        }
    });
}

#[test]
fn no_bytes_do_harm() {
    check(prop::collection::vec(any::<u8>(), 0..200), |vm, bytes| {
        let _ = round(vm, &bytes, b"");
    });
}
