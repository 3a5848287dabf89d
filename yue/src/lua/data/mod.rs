//! Data: JSON, msgpack, cryptography, metrics, memory that threads share.

pub(crate) mod crypto;
pub(crate) mod json;
pub(crate) mod metrics;
pub(crate) mod msgpack;
pub(crate) mod passwords;
pub(crate) mod shared_structs;

use crate::lua::native::Results;
use crate::lua::rpc::references::is_own_class;
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use yue_luajit::codec::{NotGiven, Object, Reference};
use yue_luajit::{ReferenceTable, Stack};

/// A buffer that grew beyond this is not kept for the next text.
const BUFFER_KEPT_MAX: usize = 256 << 10;

thread_local! {
    /// The buffer of the last encoded text: a new one would grow in steps, each of which copies it.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// An empty buffer for an encoder.
fn buffer() -> Vec<u8> {
    BUFFER.take()
}

/// Encoded bytes, whose buffer is used again.
pub(crate) struct Encoded(Vec<u8>);

impl Results for Encoded {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        stack.push_bytes(&self.0);
        if self.0.capacity() <= BUFFER_KEPT_MAX {
            self.0.clear();
            BUFFER.set(std::mem::take(&mut self.0));
        }
        1
    }
}

/// Returns why a table with this metatable is not data.
fn refusal(metatable: *const c_void) -> Option<&'static str> {
    is_own_class(metatable).then_some(
        "an object of yue's (a connection, channel, fiber, future, timer) is not data; encode what you need of it",
    )
}

/// The references of values that are data only: there are none.
struct Data;

impl ReferenceTable for Data {
    fn give(&self, object: Object) -> Result<Reference, NotGiven> {
        Err(refusal(object.metatable).map_or(NotGiven::Unknown, NotGiven::Because))
    }

    fn take_back(&self, _: Reference) {}

    fn arrive(&self, _: Stack<'_>, _: Reference) -> bool {
        false
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    json::register_all(stack);
    msgpack::register_all(stack);
    crypto::register_all(stack);
    passwords::register_all(stack);
    shared_structs::register_all(stack);
    metrics::register_all(stack);
}
