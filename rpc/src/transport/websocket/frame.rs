//! WebSocket frames (RFC 6455, section 5): a decoder that keeps no payload, and an encoder.
//!
//! ```text
//!     0               1               2 … 9                    then
//!    +-+---+-------+-+-------------+------------------------+-----------+---------
//!    |F|RSV|opcode |M| length: 7   | 16 or 64 more bits if  | key, if M | payload
//!    |I|   |       |A| bits        | these are 126 or 127   | (4 bytes) |
//!    |N|   |       |S|             |                        |           |
//!    +-+---+-------+-+-------------+------------------------+-----------+---------
//! ```
//!
//! A message is a stream of bytes for the session, which finds the ends of msgpack values itself. So the decoder passes
//! on payload as it arrives, with the key that unmasks it, and never waits for the end of a frame: however long a frame
//! claims to be, it costs no memory. Only the payload of a ping or a close, at most 125 bytes, is gathered.
//!
//! Both directions are checked strictly: anything that the RFC forbids is an error with the code to close with.

use std::fmt;

/// The length of the longest header.
pub const HEADER_MAX: usize = 14;

/// The maximum payload of a control frame.
pub const CONTROL_MAX: usize = 125;

/// The maximum length of a reason to close, in bytes: a control frame's payload without the code.
pub const REASON_MAX: usize = CONTROL_MAX - 2;

/// Codes to close with (RFC 6455, section 7.4.1).
pub mod code {
    /// The purpose of the connection is fulfilled.
    pub const NORMAL: u16 = 1000;
    /// The server goes down, or the browser leaves the page.
    pub const GOING_AWAY: u16 = 1001;
    /// The peer violated the protocol.
    pub const PROTOCOL: u16 = 1002;
    /// The peer sent data of a kind that is not accepted, such as text.
    pub const UNSUPPORTED: u16 = 1003;
    /// The peer sent text that is not UTF-8.
    pub const NOT_UTF8: u16 = 1007;
    /// The peer violated a policy.
    pub const POLICY: u16 = 1008;
    /// The peer sent too large a message.
    pub const TOO_BIG: u16 = 1009;
    /// This side failed.
    pub const FAILED: u16 = 1011;
}

/// The kind of a frame that this side sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// Bytes.
    Binary = 2,
    /// The end of the connection.
    Close = 8,
    /// A question whether the peer lives.
    Ping = 9,
    /// The answer to a ping.
    Pong = 10,
}

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// A masking key, rotated to the position where it applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Key(pub [u8; 4]);

impl Key {
    /// Masks or unmasks bytes in place. They begin where the key was rotated to.
    pub fn apply(self, bytes: &mut [u8]) {
        let word = u32::from_ne_bytes(self.0);
        // The two halves are the same, so the order of bytes in memory is the key's on any machine.
        let pair = u64::from(word) << 32 | u64::from(word);
        // Eight bytes at a time, which the compiler turns into vectors.
        let mut chunks = bytes.chunks_exact_mut(8);
        for chunk in &mut chunks {
            if let Ok(chunk) = <&mut [u8; 8]>::try_from(chunk) {
                *chunk = (u64::from_ne_bytes(*chunk) ^ pair).to_ne_bytes();
            }
        }
        let rest = chunks.into_remainder();
        for (byte, key) in rest.iter_mut().zip(self.0.iter().cycle()) {
            *byte ^= key;
        }
    }

    /// The key for what follows `count` masked bytes.
    #[must_use]
    pub fn after(self, count: usize) -> Key {
        let mut bytes = self.0;
        bytes.rotate_left(count % 4);
        Key(bytes)
    }
}

/// Violates the RFC, or is not accepted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct FrameError {
    /// The code to close with.
    pub code: u16,
    /// The fault.
    pub text: &'static str,
}

const fn violation(text: &'static str) -> FrameError {
    FrameError {
        code: code::PROTOCOL,
        text,
    }
}

/// The peer's last frame.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Close {
    /// The code, if it sent one.
    pub code: Option<u16>,
    /// The reason; empty if it sent none.
    pub reason: String,
}

impl Close {
    fn parse(payload: &[u8]) -> Result<Close, FrameError> {
        let (code, reason) = match payload {
            [] => return Ok(Close::default()),
            [_] => return Err(violation("a close frame has half a code")),
            [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
        };
        // The others never travel, or have no meaning yet (section 7.4.2).
        if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
            return Err(violation("a close frame has a code that may not be sent"));
        }
        let reason = str::from_utf8(reason).map_err(|_| FrameError {
            code: code::NOT_UTF8,
            text: "the reason of a close frame is not UTF-8",
        })?;
        Ok(Close {
            code: Some(code),
            reason: reason.to_owned(),
        })
    }
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.reason.is_empty()) {
            (None, _) => f.write_str("no code"),
            (Some(code::NORMAL), false) => f.write_str(&self.reason),
            (Some(code), true) => write!(f, "code {code}"),
            (Some(code), false) => write!(f, "{} (code {code})", self.reason),
        }
    }
}

/// A part of the incoming stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A part of a binary message.
    Data {
        /// The bytes, as they arrived.
        bytes: &'a [u8],
        /// The key that unmasks them; `None`: they are not masked.
        key: Option<Key>,
    },
    /// A ping, with the payload to answer with.
    Ping(Vec<u8>),
    /// An answer to a ping, or a sign of life that nobody asked for.
    Pong,
    /// The peer sends nothing after this.
    Close(Close),
}

/// The frame whose payload arrives now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Ping,
    Pong,
    Close,
}

/// The state of the incoming stream.
#[derive(Debug)]
pub struct Decoder {
    /// Whether the peer must mask: it is a client.
    masked: bool,
    /// The beginning of a header.
    header: [u8; HEADER_MAX],
    header_len: u8,
    /// `None`: a header comes next.
    kind: Option<Kind>,
    /// Bytes of the frame that have not arrived.
    left: u64,
    key: Key,
    /// A message was begun, and its last frame has not.
    in_message: bool,
    /// The payload of a ping or a close so far.
    control: Vec<u8>,
}

impl Decoder {
    /// Creates a decoder of frames that must, or must not, be masked.
    pub fn new(masked: bool) -> Decoder {
        Decoder {
            masked,
            header: [0; HEADER_MAX],
            header_len: 0,
            kind: None,
            left: 0,
            key: Key::default(),
            in_message: false,
            control: Vec::new(),
        }
    }

    /// Whether the stream stands between two messages.
    pub fn is_between_messages(&self) -> bool {
        self.kind.is_none() && self.header_len == 0 && !self.in_message
    }

    /// Takes the next item from the front of the input. `None`: all of the input is taken.
    ///
    /// # Errors
    /// If the peer violates the protocol. The decoder must not be used any more.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Item<'a>>, FrameError> {
        loop {
            let Some(kind) = self.kind else {
                if self.read_header(input)? {
                    continue;
                }
                return Ok(None);
            };
            let count =
                usize::try_from(self.left).map_or(input.len(), |left| left.min(input.len()));
            let (bytes, rest) = input.split_at(count);
            *input = rest;
            let key = self.key;
            self.key = key.after(count);
            self.left -= count as u64;
            let ended = self.left == 0;
            if ended {
                self.kind = None;
            }
            match kind {
                Kind::Data if !bytes.is_empty() => {
                    let key = self.masked.then_some(key);
                    return Ok(Some(Item::Data { bytes, key }));
                }
                Kind::Pong if ended => return Ok(Some(Item::Pong)),
                Kind::Ping | Kind::Close => {
                    let start = self.control.len();
                    self.control.extend_from_slice(bytes);
                    key.apply(&mut self.control[start..]);
                    if ended {
                        let payload = std::mem::take(&mut self.control);
                        return Ok(Some(match kind {
                            Kind::Ping => Item::Ping(payload),
                            _ => Item::Close(Close::parse(&payload)?),
                        }));
                    }
                }
                // An empty frame, or one whose payload is still to come.
                Kind::Data | Kind::Pong => {}
            }
            if !ended {
                debug_assert!(input.is_empty());
                return Ok(None);
            }
        }
    }

    /// Reads on in a header. Returns whether it is complete.
    fn read_header(&mut self, input: &mut &[u8]) -> Result<bool, FrameError> {
        loop {
            let have = usize::from(self.header_len);
            let needed = match have {
                0 | 1 => 2,
                _ => header_length(self.header[1]),
            };
            if have == needed {
                break;
            }
            let count = (needed - have).min(input.len());
            if count == 0 {
                return Ok(false);
            }
            let (bytes, rest) = input.split_at(count);
            self.header[have..have + count].copy_from_slice(bytes);
            self.header_len += count as u8;
            *input = rest;
            // Before the rest is awaited.
            if have < 2 && have + count == 2 {
                self.check_start()?;
            }
        }
        self.begin_frame()?;
        Ok(true)
    }

    /// Checks all that the first two bytes tell.
    fn check_start(&self) -> Result<(), FrameError> {
        let [first, second, ..] = self.header;
        if first & RESERVED != 0 {
            return Err(violation(
                "a reserved bit is set, but no extension was agreed on",
            ));
        }
        let (fin, length) = (first & FIN != 0, second & !MASKED);
        match first & 0x0f {
            0 if !self.in_message => {
                return Err(violation("a continuation frame continues no message"));
            }
            1 | 2 if self.in_message => {
                return Err(violation("a message begins inside another one"));
            }
            1 => {
                return Err(FrameError {
                    code: code::UNSUPPORTED,
                    text: "text messages are not accepted; send msgpack in binary messages",
                });
            }
            0 | 2 => {}
            8..=10 if !fin => return Err(violation("a control frame is fragmented")),
            8..=10 if usize::from(length) > CONTROL_MAX => {
                return Err(violation("a control frame is longer than 125 bytes"));
            }
            8..=10 => {}
            _ => return Err(violation("a frame has an unknown opcode")),
        }
        match (self.masked, second & MASKED != 0) {
            (true, false) => Err(violation("a client's frame is not masked")),
            (false, true) => Err(violation("a server's frame is masked")),
            _ => Ok(()),
        }
    }

    /// The header is complete.
    fn begin_frame(&mut self) -> Result<(), FrameError> {
        let header = &self.header[..usize::from(self.header_len)];
        let (first, short) = (header[0], header[1] & !MASKED);
        let rest = &header[2..];
        let (length, rest) = match short {
            126 => {
                let (length, rest) = rest.split_at(2);
                (length.iter().fold(0, append_byte), rest)
            }
            127 => {
                let (length, rest) = rest.split_at(8);
                (length.iter().fold(0, append_byte), rest)
            }
            _ => (u64::from(short), rest),
        };
        if length >> 63 != 0 {
            return Err(violation("the length of a frame has more than 63 bits"));
        }
        if short == 126 && length < 126 || short == 127 && length <= u64::from(u16::MAX) {
            return Err(violation(
                "the length of a frame is not in its shortest form",
            ));
        }
        self.key = Key(rest.try_into().unwrap_or_default());
        self.left = length;
        self.kind = Some(match first & 0x0f {
            8 => Kind::Close,
            9 => Kind::Ping,
            10 => Kind::Pong,
            _ => {
                self.in_message = first & FIN == 0;
                Kind::Data
            }
        });
        self.header_len = 0;
        Ok(())
    }
}

fn append_byte(length: u64, byte: &u8) -> u64 {
    length << 8 | u64::from(*byte)
}

/// The length of a header by its second byte.
fn header_length(second: u8) -> usize {
    let extended = match second & !MASKED {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + extended + if second & MASKED != 0 { 4 } else { 0 }
}

/// A header to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    bytes: [u8; HEADER_MAX],
    len: usize,
}

impl Header {
    /// Encodes the header of a whole message.
    pub fn new(opcode: Opcode, length: usize, key: Option<Key>) -> Header {
        let mut header = Header {
            bytes: [0; HEADER_MAX],
            len: 0,
        };
        header.append(&[FIN | opcode as u8]);
        let mask = if key.is_some() { MASKED } else { 0 };
        match length {
            0..=125 => header.append(&[mask | length as u8]),
            126..=0xffff => {
                header.append(&[mask | 126]);
                header.append(&(length as u16).to_be_bytes());
            }
            _ => {
                header.append(&[mask | 127]);
                header.append(&(length as u64).to_be_bytes());
            }
        }
        if let Some(Key(key)) = key {
            header.append(&key);
        }
        header
    }

    fn append(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// The encoded bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Longer payloads are not moved to make room for their header. Up to here a move costs less than an allocation and
/// another slice in the system call.
const MOVE_MAX: usize = 4096;

/// Makes one binary message of a buffer, without a copy of it: the buffers to send, in order.
pub fn binary(mut payload: Vec<u8>, key: Option<Key>) -> (Option<Vec<u8>>, Vec<u8>) {
    if let Some(key) = key {
        key.apply(&mut payload);
    }
    let length = payload.len();
    let header = Header::new(Opcode::Binary, length, key);
    let header = header.bytes();
    if length > MOVE_MAX {
        return (Some(header.to_vec()), payload);
    }
    payload.extend_from_slice(header);
    payload.copy_within(..length, header.len());
    payload[..header.len()].copy_from_slice(header);
    (None, payload)
}

/// Encodes a control frame; what is too long for one is cut off.
pub fn control(opcode: Opcode, payload: &[u8], key: Option<Key>) -> Vec<u8> {
    let payload = &payload[..payload.len().min(CONTROL_MAX)];
    let header = Header::new(opcode, payload.len(), key);
    let mut frame = header.bytes().to_vec();
    frame.extend_from_slice(payload);
    if let Some(key) = key {
        key.apply(&mut frame[header.len..]);
    }
    frame
}

/// Encodes a close frame; a reason that is too long is cut at a character.
pub fn close(code: u16, reason: &str, key: Option<Key>) -> Vec<u8> {
    let reason = &reason[..reason.floor_char_boundary(REASON_MAX)];
    let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
    control(Opcode::Close, &payload, key)
}

#[cfg(test)]
mod tests;
