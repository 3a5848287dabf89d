//! The form of function references on the wire: the one thing that the RPC layer and the Lua codec must agree on.
//!
//! A function crosses a connection as a number, in a [msgpack](https://github.com/msgpack/msgpack/blob/master/spec.md)
//! ext value of eight bytes, so that its header is a `fixext 8`:
//!
//! ```text
//!   d7  59  | sub-type (1 byte) | id (7 bytes, big endian) |
//!             1 = the sender owns it      2 = the receiver owns it: it is sent back
//! ```
//!
//! The codec writes and reads references among values. The RPC layer finds them in values that nobody decodes, to
//! release the functions.
//!
//! ```
//! use yue_wire::{EXT_CODE, Owner, Reference};
//!
//! let reference = Reference { owner: Owner::Sender, id: 7 };
//! let bytes = reference.to_bytes();
//! assert_eq!(bytes, [0xd7, 0x59, 1, 0, 0, 0, 0, 0, 0, 7]);
//! assert_eq!(bytes[1] as i8, EXT_CODE);
//! assert_eq!(Reference::parse(&bytes[2..]), Some(reference));
//! ```

/// The ext code of all of yue's types.
pub const EXT_CODE: i8 = 0x59;

/// The largest id: seven bytes on the wire.
pub const ID_MAX: u64 = (1 << 56) - 1;

/// The header of an ext value of eight bytes.
const FIX_EXT_8: u8 = 0xd7;

const SENDER_OWNS: u8 = 1;
const RECEIVER_OWNS: u8 = 2;

/// The owner of the function behind a reference, seen from the message that carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The side that encodes the message.
    Sender,
    /// The side that decodes it: one of its own functions comes back.
    Receiver,
}

/// A function as it crosses a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// The side that runs the function.
    pub owner: Owner,
    /// The owner's number for it; at most [`ID_MAX`].
    pub id: u64,
}

impl Reference {
    /// The whole ext value: header, code and body.
    pub fn to_bytes(self) -> [u8; 10] {
        debug_assert!(self.id <= ID_MAX, "an id has 56 bits");
        let owner = match self.owner {
            Owner::Sender => SENDER_OWNS,
            Owner::Receiver => RECEIVER_OWNS,
        };
        let [_, a, b, c, d, e, f, g] = self.id.to_be_bytes();
        [FIX_EXT_8, EXT_CODE as u8, owner, a, b, c, d, e, f, g]
    }

    /// Reads the body of an ext value with the code [`EXT_CODE`]. `None` if it is malformed.
    pub fn parse(body: &[u8]) -> Option<Reference> {
        let &[owner, a, b, c, d, e, f, g] = body else {
            return None;
        };
        let owner = match owner {
            SENDER_OWNS => Owner::Sender,
            RECEIVER_OWNS => Owner::Receiver,
            _ => return None,
        };
        let id = u64::from_be_bytes([0, a, b, c, d, e, f, g]);
        Some(Reference { owner, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_survives_the_wire() {
        for owner in [Owner::Sender, Owner::Receiver] {
            for id in [0, 1, 0x0001_0203_0405_0607, ID_MAX] {
                let reference = Reference { owner, id };
                let bytes = reference.to_bytes();
                assert_eq!(Reference::parse(&bytes[2..]), Some(reference));
            }
        }
    }

    #[test]
    fn a_malformed_body_is_not_a_reference() {
        for body in [&[][..], &[1], &[1; 7], &[1; 9], &[0; 8], &[3; 8]] {
            assert_eq!(Reference::parse(body), None, "{body:?}");
        }
    }
}

/// The README, whose example is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
