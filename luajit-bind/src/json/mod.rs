//! JSON between text and Lua values, directly between the Lua stack and a buffer.
//!
//! ```text
//!   Lua                                            JSON
//!   nil, a light userdata that is NULL             null; decoded, it is such a userdata inside, and nil outermost
//!   true, false                                    true, false
//!   number                                         number: the shortest text that reads back as the same one
//!   int64_t, uint64_t cdata                        number; integers beyond ±2^53 arrive as such a cdata
//!   string, which must be UTF-8                    string
//!   table with the keys 1..n, or marked as array   array; decoded arrays are marked, so that empty ones stay arrays
//!   any other table, the empty one too             object; a decoded empty object is marked as a map
//! ```
//!
//! As in the codec of msgpack, encoding reads tables raw and raises nothing, while decoding allocates in Lua and may
//! raise, so nothing in its frames has a destructor.

mod decode;
mod encode;
mod error;
mod scan;

pub use encode::JsonStyle;
pub use error::{JsonDecodeError, JsonEncodeError, JsonEncodeFault, JsonFault};
