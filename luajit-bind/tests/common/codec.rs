//! Encoding what Lua text evaluates to, decoding and encoding again, and a table of references.

use super::chunk;
use std::cell::RefCell;
use std::ffi::c_int;
use yue_luajit::codec::{
    DecodeError, EncodeError, NotGiven, Object, ObjectKind, Owner, Reader, Reference,
};
use yue_luajit::{Codec, NoReferences, ReferenceTable, Stack, Vm};

/// Runs an expression and encodes its values; `None` is an encoding error, kept in `ERROR`.
pub fn encode_with(
    vm: &Vm,
    source: &str,
    refs: &dyn ReferenceTable,
) -> Result<Vec<u8>, Box<EncodeError>> {
    encode_by(vm, vm.codec(), source, refs)
}

/// Like `encode_with`, with another codec.
pub fn encode_by(
    vm: &Vm,
    codec: Codec,
    source: &str,
    refs: &dyn ReferenceTable,
) -> Result<Vec<u8>, Box<EncodeError>> {
    let mut state = chunk(vm, &format!("return {source}"));
    state.attach(|running| {
        running.call().expect("no error");
        let (raw, first, count) = (
            running.state().raw(),
            running.state().first(),
            running.state().count(),
        );
        let mut out = vec![7];
        // SAFETY: the values are on this state.
        let result = unsafe { codec.encode_values(raw, first, count, "args", refs, &mut out) };
        if result.is_err() {
            assert_eq!(out, [7], "the buffer is truncated on error");
        }
        result.map(|()| out.split_off(1))
    })
}

pub fn encode(vm: &Vm, source: &str) -> Result<Vec<u8>, Box<EncodeError>> {
    let (vm, source) = (vm.clone(), source.to_owned());
    lua_fiber(move || encode_with(&vm, &source, &NoReferences))
}

/// Runs `body` in a fiber with a Lua stack.
pub fn lua_fiber<R: 'static>(body: impl FnOnce() -> R + 'static) -> R {
    let builder = yue_scheduler::Builder::new().stack(yue_scheduler::StackClass::Deep);
    builder
        .spawn(body)
        .expect("a fiber")
        .join()
        .expect("no panic")
}

/// Decodes all values in `bytes` on the main state and encodes them again.
pub fn round(vm: &Vm, bytes: &[u8], refs: &dyn ReferenceTable) -> Result<Vec<u8>, DecodeError> {
    round_by(vm, vm.codec(), bytes, refs)
}

/// Like `round`, with another codec.
pub fn round_by(
    vm: &Vm,
    codec: Codec,
    bytes: &[u8],
    refs: &dyn ReferenceTable,
) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::new();
    let sink = &raw mut out;
    vm.protect(|stack| {
        let count = decode_all(&codec, stack, bytes, refs)?;
        // SAFETY: `out` outlives the call; encoding raises nothing.
        unsafe {
            codec
                .encode_values(stack.raw(), 1, count, "args", refs, &mut *sink)
                .expect("what was decoded encodes")
        };
        Ok(())
    })
    .expect("no Lua error")
    .map(|()| out)
}

/// Decodes one value on the main state, and drops it: how much memory the reader says it took.
pub fn decode_by(vm: &Vm, codec: Codec, bytes: &[u8]) -> Result<usize, DecodeError> {
    vm.protect(|stack| {
        let mut reader = Reader::new(bytes);
        let outcome = codec.decode_values(stack, &mut reader, 1, &NoReferences);
        outcome
            .and_then(|_| reader.finish())
            .map(|()| reader.decoded_bytes())
    })
    .expect("no Lua error")
}

pub fn decode_all(
    codec: &Codec,
    stack: Stack<'_>,
    bytes: &[u8],
    refs: &dyn ReferenceTable,
) -> Result<c_int, DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut count = 0;
    while !reader.rest().is_empty() {
        count += codec.decode_values(stack, &mut reader, 1, refs)?;
    }
    Ok(count)
}

/// A table that gives functions ascending ids and remembers them.
#[derive(Default)]
pub struct Table {
    pub given: RefCell<Vec<Reference>>,
    pub taken_back: RefCell<Vec<Reference>>,
    pub limit: usize,
}

impl ReferenceTable for Table {
    fn give(&self, object: Object) -> Result<Reference, NotGiven> {
        let mut given = self.given.borrow_mut();
        if object.kind != ObjectKind::Function {
            return Err(NotGiven::Unknown);
        }
        if given.len() >= self.limit {
            return Err(NotGiven::TooMany(self.limit));
        }
        let reference = Reference {
            owner: Owner::Sender,
            id: (1 << 40) + given.len() as u64,
        };
        given.push(reference);
        Ok(reference)
    }

    fn take_back(&self, reference: Reference) {
        self.taken_back.borrow_mut().push(reference);
    }

    fn arrive(&self, stack: Stack<'_>, reference: Reference) -> bool {
        stack.push_number(reference.id as f64);
        true
    }
}
