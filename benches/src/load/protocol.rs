//! The bytes of one call of `echo(1)` in the protocol of each server of row 9, for the open-loop generator.
//!
//! This covers only what the generator needs: a request with a given number, and the numbers of the answers in a
//! stream. An error answer, or one that cannot be parsed, fails the measurement.

use crate::harness::Problem;

/// An RPC protocol.
pub trait Protocol {
    /// Bytes that a server sends before the first request.
    const GREETING_BYTES: usize = 0;

    /// Appends the request with this number.
    fn request(number: u32, out: &mut Vec<u8>);

    /// Parses the first answer in `bytes`. Returns its number and length, or `None` if it is incomplete.
    ///
    /// # Errors
    ///
    /// When the answer is an error, or cannot be parsed.
    fn answer(bytes: &[u8]) -> Result<Option<(u32, usize)>, Problem>;
}

/// msgpack-rpc: `[0, number, "echo", [1]]` and `[1, number, nil, 1]`.
#[derive(Debug)]
pub struct MsgpackRpc;

impl Protocol for MsgpackRpc {
    fn request(number: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0x94, 0x00, 0xce]);
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(b"\xa4echo\x91\x01");
    }

    fn answer(bytes: &[u8]) -> Result<Option<(u32, usize)>, Problem> {
        let mut reader = Reader { bytes, position: 0 };
        let whole = reader.expect(0x94)?.zip(reader.expect(0x01)?);
        let Some((_, number)) = whole.zip(reader.unsigned()?) else {
            return Ok(None);
        };
        let end = reader.expect(0xc0)?.zip(reader.expect(0x01)?);
        Ok(end.map(|_| (number as u32, reader.position)))
    }
}

/// Tarantool's binary protocol: a call of the function `echo` with one argument.
#[derive(Debug)]
pub struct Iproto;

impl Protocol for Iproto {
    const GREETING_BYTES: usize = 128;

    fn request(number: u32, out: &mut Vec<u8>) {
        // Header {request type 0: call 10, sync 1: number}, body {function name 0x22: "echo", tuple 0x21: [1]}.
        out.extend_from_slice(&[0xce, 0, 0, 0, 19, 0x82, 0x00, 0x0a, 0x01, 0xce]);
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(b"\x82\x22\xa4echo\x21\x91\x01");
    }

    fn answer(bytes: &[u8]) -> Result<Option<(u32, usize)>, Problem> {
        let mut reader = Reader { bytes, position: 0 };
        let Some(length) = reader.unsigned()? else {
            return Ok(None);
        };
        let end = reader.position + length as usize;
        if bytes.len() < end {
            return Ok(None);
        }
        let mut number = None;
        let pairs = reader.byte().unwrap_or(0) & 0x0f;
        for _ in 0..pairs {
            match (reader.unsigned()?, reader.unsigned()?) {
                (Some(0), Some(status)) if status != 0 => {
                    return Err(Problem::failed(format!(
                        "Tarantool answered with the error {status:#x}"
                    )));
                }
                (Some(1), sync) => number = sync,
                _ => {}
            }
        }
        let number =
            number.ok_or_else(|| Problem::failed("an answer of Tarantool without a number"))?;
        Ok(Some((number as u32, end)))
    }
}

/// Reads msgpack's unsigned integers and single bytes; returns `None` at the end of the received bytes.
struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.position)?;
        self.position += 1;
        Some(byte)
    }

    fn expect(&mut self, expected: u8) -> Result<Option<()>, Problem> {
        match self.byte() {
            None => Ok(None),
            Some(byte) if byte == expected => Ok(Some(())),
            Some(byte) => Err(Problem::failed(format!(
                "an answer has {byte:#x} where {expected:#x} should be"
            ))),
        }
    }

    fn unsigned(&mut self) -> Result<Option<u64>, Problem> {
        let Some(first) = self.byte() else {
            return Ok(None);
        };
        let length = match first {
            0..=0x7f => return Ok(Some(u64::from(first))),
            0xcc => 1,
            0xcd => 2,
            0xce => 4,
            0xcf => 8,
            _ => {
                return Err(Problem::failed(format!(
                    "an answer has {first:#x} where a number should be"
                )));
            }
        };
        let digits = self.bytes.get(self.position..self.position + length);
        self.position += length;
        Ok(digits.map(|digits| {
            digits
                .iter()
                .fold(0, |number, digit| number << 8 | u64::from(*digit))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_msgpack_answer_is_parsed_only_when_it_is_complete() {
        let answer = [0x94, 1, 0xcd, 0x01, 0x02, 0xc0, 1, 0x94];
        assert_eq!(MsgpackRpc::answer(&answer).ok(), Some(Some((0x102, 7))));
        for length in 0..7 {
            assert_eq!(
                MsgpackRpc::answer(&answer[..length]).ok(),
                Some(None),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn a_msgpack_answer_that_is_an_error_fails() {
        assert!(MsgpackRpc::answer(&[0x94, 1, 7, 0xa1, b'x', 0xc0]).is_err());
    }

    #[test]
    fn a_tarantool_request_has_the_length_in_its_header() {
        let mut out = Vec::new();
        Iproto::request(7, &mut out);
        assert_eq!(out.len(), 5 + usize::from(out[4]));
    }

    #[test]
    fn the_sync_number_of_a_tarantool_answer_is_parsed() {
        let mut answer = vec![0xce, 0, 0, 0, 9, 0x83, 0, 0, 1, 0xcd, 1, 2, 5, 9, 0xff];
        assert_eq!(Iproto::answer(&answer).ok(), Some(Some((0x102, 14))));
        assert_eq!(Iproto::answer(&answer[..13]).ok(), Some(None));
        // Status 0x8005 instead of 0.
        answer.splice(7..8, [0xcd, 0x80, 5]);
        answer[4] = 11;
        assert!(Iproto::answer(&answer).is_err());
    }
}
