//! Frames: from kinds and payloads to bytes, and back. It does no I/O.
//!
//! Invariant: a frame is at most [`FRAME_MAX`] bytes, so its reader needs no more memory, whatever the peer sends.
//!
//! Both sides change the key of a direction after [`REKEY_MESSAGES`] messages (Noise, 11.3), so that one that leaks
//! opens little of what was sent before. A direction's messages are numbered; the numbers last for 2^64 of them.

use super::message::{self, Answer};
use super::noise::TAG_BYTES;
use snow::TransportState;
use std::fmt;
use std::io;

/// The bytes of the longest frame, which are those of the longest Noise message.
pub const FRAME_MAX: usize = 65_535;

/// The bytes of the longest payload.
pub const PAYLOAD_MAX: usize = FRAME_MAX - TAG_BYTES - 1;

/// The messages that are encrypted with one key.
const REKEY_MESSAGES: u64 = 1 << 16;

/// The kinds of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes of the node's link.
    Data,
    /// A request or an answer.
    Message,
    /// Bytes of what the node prints.
    Output,
    /// No more data follows in this direction.
    End,
    /// Bytes of the owner's program.
    Binary,
}

impl Kind {
    const ALL: [Kind; 5] = [
        Kind::Data,
        Kind::Message,
        Kind::Output,
        Kind::End,
        Kind::Binary,
    ];
}

/// Turns messages into frames, and frames into messages.
pub struct Codec(Mode);

enum Mode {
    /// Over a Unix socket.
    Plain,
    Noise {
        state: Box<TransportState>,
        sent: u64,
        received: u64,
    },
}

impl Codec {
    /// A codec without encryption.
    pub fn plain() -> Codec {
        Codec(Mode::Plain)
    }

    pub(super) fn noise(state: TransportState) -> Codec {
        Codec(Mode::Noise {
            state: Box::new(state),
            sent: 0,
            received: 0,
        })
    }

    /// Appends a message's frames to `out`: more than one if the payload is longer than a frame.
    ///
    /// # Errors
    /// If the direction's numbers are used up.
    pub fn seal(&mut self, kind: Kind, payload: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        if payload.is_empty() {
            return self.seal_one(kind, payload, out);
        }
        for part in payload.chunks(PAYLOAD_MAX) {
            self.seal_one(kind, part, out)?;
        }
        Ok(())
    }

    fn seal_one(&mut self, kind: Kind, payload: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let mut plain = Vec::with_capacity(1 + payload.len());
        plain.extend_from_slice(payload);
        plain.push(kind as u8);
        let start = out.len();
        match &mut self.0 {
            Mode::Plain => {
                push_length(out, plain.len())?;
                out.extend_from_slice(&plain);
            }
            Mode::Noise { state, sent, .. } => {
                let sealed = plain.len() + TAG_BYTES;
                push_length(out, sealed)?;
                out.resize(start + 2 + sealed, 0);
                state
                    .write_message(&plain, &mut out[start + 2..])
                    .map_err(|error| io::Error::other(error.to_string()))?;
                *sent += 1;
                if *sent % REKEY_MESSAGES == 0 {
                    state.rekey_outgoing();
                }
            }
        }
        Ok(())
    }

    /// Appends the frame of an answer.
    ///
    /// # Errors
    /// See [`Codec::seal`].
    pub fn seal_answer(&mut self, answer: &Answer, out: &mut Vec<u8>) -> io::Result<()> {
        let bytes = message::encode(answer).map_err(io::Error::other)?;
        self.seal(Kind::Message, &bytes, out)
    }

    /// Opens the whole frames at the beginning of `bytes`, and appends the payloads of [`Kind::Data`] to `data`. `each`
    /// receives the other kinds, whose payloads are dropped; it returns whether to continue. Returns the bytes taken.
    ///
    /// # Errors
    /// If the peer has not sealed a frame. The data before it has been appended.
    pub fn open_all(
        &mut self,
        bytes: &[u8],
        data: &mut Vec<u8>,
        mut each: impl FnMut(Kind) -> bool,
    ) -> io::Result<usize> {
        let mut taken = 0;
        while let Some(frame) = first_frame(&bytes[taken..])? {
            let before = data.len();
            let kind = self.open(frame, data)?;
            taken += 2 + frame.len();
            if kind != Kind::Data {
                data.truncate(before);
                if !each(kind) {
                    break;
                }
            }
        }
        Ok(taken)
    }

    /// The kind of a frame, whose payload is appended to `out`.
    ///
    /// # Errors
    /// If the peer has not sealed it.
    pub fn open(&mut self, frame: &[u8], out: &mut Vec<u8>) -> io::Result<Kind> {
        let start = out.len();
        match &mut self.0 {
            Mode::Plain => out.extend_from_slice(frame),
            Mode::Noise {
                state, received, ..
            } => {
                out.resize(start + frame.len(), 0);
                let opened = state.read_message(frame, &mut out[start..]);
                let count = opened.map_err(|_| {
                    out.truncate(start);
                    let text = "a message of the peer cannot be decrypted";
                    io::Error::new(io::ErrorKind::InvalidData, text)
                })?;
                out.truncate(start + count);
                *received += 1;
                if *received % REKEY_MESSAGES == 0 {
                    state.rekey_incoming();
                }
            }
        }
        let last = if out.len() > start { out.pop() } else { None };
        let known = last.and_then(|kind| Kind::ALL.get(usize::from(kind)).copied());
        known.ok_or_else(|| {
            out.truncate(start);
            let text = "the peer sent a message of an unknown kind";
            io::Error::new(io::ErrorKind::InvalidData, text)
        })
    }
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.0 {
            Mode::Plain => "plain",
            Mode::Noise { .. } => "noise",
        };
        f.debug_tuple("Codec").field(&mode).finish()
    }
}

pub(super) fn push_length(out: &mut Vec<u8>, length: usize) -> io::Result<()> {
    let length = u16::try_from(length).map_err(io::Error::other)?;
    out.extend_from_slice(&length.to_be_bytes());
    Ok(())
}

/// The frame that these bytes begin with, without its length; `None` before all of it is there.
///
/// # Errors
/// If it is empty, which no frame is.
pub(super) fn first_frame(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else {
        return Ok(None);
    };
    match usize::from(u16::from_be_bytes(*length)) {
        0 => {
            let text = "the peer sent an empty frame";
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
        length => Ok(rest.get(..length)),
    }
}
