//! Codec between Lua values and msgpack bytes, directly between the Lua stack and a buffer, without a tree in between.
//!
//! The mapping:
//!
//! ```text
//!   Lua                                            msgpack
//!   nil, true, false                               nil, true, false
//!   a light userdata that is NULL                  nil
//!   integral number within ±2^53 (but not -0)      the smallest int
//!   any other number                               float 64
//!   int64_t, uint64_t cdata                        the smallest int; beyond ±2^53 it arrives as such a cdata again
//!   string                                         str if it is valid UTF-8, else bin; both arrive as a string
//!   table with the keys 1..n, and the empty table  array
//!   a table marked with `array{}`                  array, with nil for each hole
//!   any other table, and one marked with `map{}`   map
//!   function, remote callable                      ext 0x59, through a ReferenceTable
//!   a decoded foreign ext                          that ext
//! ```
//!
//! Encoding reads tables raw: no metamethod runs, nothing is allocated in Lua, nothing can raise. Decoding allocates,
//! so it may raise (out of memory) and belongs inside a protected call; it checks every length against the available
//! bytes and never panics, whatever they are.

mod decode;
mod encode;
mod error;
mod foreign_ext;
mod marks;
mod references;
pub(crate) mod walk;

pub use decode::Reader;
pub use error::{DecodeError, EncodeError, EncodeFault};
pub use marks::{Codec, DECODED_BYTES_MAX, Limits, NESTING_MAX};
pub use references::{
    NoReferences, NotGiven, Object, ObjectKind, Owner, Reference, ReferenceTable,
};
