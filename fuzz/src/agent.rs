//! The agent's side of the channel to owners: the bytes of a stranger that has not shown a key. The first byte of an
//! input chooses what the rest is.

use std::io::{self, Read, Write};
use yue::nalloc::agent::{
    AgentAddress, Channel, Codec, FRAME_MAX, Hello, Kind, SecretKey, accept, read_hello,
};

/// A stream whose input is at hand. It keeps what is sent.
struct Memory<'a> {
    input: &'a [u8],
    sent: Vec<u8>,
}

impl<'a> Memory<'a> {
    fn new(input: &'a [u8]) -> Memory<'a> {
        let sent = Vec::new();
        Memory { input, sent }
    }
}

impl Read for Memory<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.input.read(into)
    }
}

impl Write for Memory<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sent.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn keys() -> (SecretKey, SecretKey) {
    (
        SecretKey::from_bytes([1; 32]),
        SecretKey::from_bytes([2; 32]),
    )
}

/// Receives the bytes like an agent.
///
/// # Panics
/// If a stranger gets further than it may.
pub fn check(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => check_stranger(rest),
        1 => check_frames(rest),
        2 => check_changed(rest),
        _ => check_address(rest),
    }
}

/// Nobody can make a handshake without knowing the agent's key.
fn check_stranger(input: &[u8]) {
    let mut stream = Memory::new(input);
    if let Ok(Hello::Noise) = read_hello(&mut stream) {
        assert!(accept(&mut stream, &keys().1).is_err());
        assert!(stream.sent.is_empty());
    }
}

/// Frames without encryption: whole or not, known or not.
fn check_frames(input: &[u8]) {
    let mut data = Vec::new();
    let mut others = 0;
    let opened = Codec::plain().open_all(input, &mut data, |kind| {
        assert_ne!(kind, Kind::Data);
        others += 1;
        true
    });
    if let Ok(taken) = opened {
        assert!(taken <= input.len() && data.len() + 3 * others <= input.len());
        assert!(input.len() - taken <= 2 + FRAME_MAX);
    }
    // An error, or a request that makes sense.
    if let Ok(request) = Channel::plain(Memory::new(input)).receive_request() {
        assert!(request.is_valid());
    }
    drop(Channel::plain(Memory::new(input)).receive_answer());
}

/// A handshake that an owner has made passes; with any change it does not.
fn check_changed(edits: &[u8]) {
    let (owner, agent) = keys();
    let mut stream = Memory::new(&[]);
    // No answer comes, but its first bytes have been sent.
    assert!(Channel::open(&mut stream, &owner, &agent.public()).is_err());
    let mut bytes = stream.sent.clone();
    for edit in edits.chunks_exact(2) {
        let at = usize::from(edit[0]) % bytes.len();
        bytes[at] ^= edit[1];
    }
    let mut changed = Memory::new(&bytes);
    if let Ok(Hello::Noise) = read_hello(&mut changed) {
        let accepted = accept(&mut changed, &agent);
        assert_eq!(accepted.is_ok(), bytes == stream.sent, "{edits:?}");
        if let Ok((_, key)) = accepted {
            assert_eq!(key, owner.public());
        }
    }
}

/// A text that is taken for an address prints as one that parses to the same.
fn check_address(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match text.parse::<AgentAddress>() {
        Ok(address) => assert_eq!(address.to_string().parse().as_ref(), Ok(&address)),
        Err(error) => assert!(!error.contains(char::is_control), "{error:?}"),
    }
}
