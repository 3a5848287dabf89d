//! The conversation of an owner and an agent over a stream, up to the node's first byte. It runs in a fiber, which
//! waits in the stream; deadlines are the caller's.

use super::codec::{Codec, FRAME_MAX, Kind, PAYLOAD_MAX, push_length};
use super::keys::{PublicKey, SecretKey};
use super::message::{self, Answer, Request};
use super::noise::{self, KEY_BYTES};
use serde::Serialize;
use std::io::{self, Read, Write};
use std::time::Duration;

/// The first bytes of a client. They name the protocol and its version.
pub const PREFACE: [u8; 8] = *b"yue-agt1";

/// The time for a handshake and the first message behind it.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// The longest frame of a handshake, whose messages have no payload.
const HANDSHAKE_FRAME_MAX: usize = 256;

/// The question of a client, which follows the preface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hello {
    /// A Noise handshake follows.
    Noise,
    /// The client asks for the agent's public key: its 32 bytes are the answer, and the end.
    Key,
    /// No encryption, over a Unix socket.
    Plain,
}

impl Hello {
    const ALL: [(u8, Hello); 3] = [
        (b'N', Hello::Noise),
        (b'K', Hello::Key),
        (b'P', Hello::Plain),
    ];

    fn bytes(self) -> Vec<u8> {
        let mut bytes = PREFACE.to_vec();
        let known = Hello::ALL.iter().find(|(_, hello)| *hello == self);
        bytes.extend(known.map(|(byte, _)| *byte));
        bytes
    }
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

fn of_noise(error: snow::Error) -> io::Error {
    invalid(format!("the handshake failed: {error}"))
}

/// An agent's side: reads a client's first bytes.
///
/// # Errors
/// The stream's; or that the client does not speak this protocol.
pub fn read_hello(mut stream: impl Read) -> io::Result<Hello> {
    let mut bytes = [0; PREFACE.len() + 1];
    stream.read_exact(&mut bytes)?;
    let (preface, kind) = bytes.split_at(PREFACE.len());
    if preface != PREFACE {
        return Err(invalid("the client does not speak the protocol of agents"));
    }
    let mut known = Hello::ALL.iter();
    known
        .find(|(byte, _)| kind == [*byte])
        .map(|(_, hello)| *hello)
        .ok_or_else(|| invalid("the client is of a later version"))
}

/// An agent's side: answers the question for its public key.
///
/// # Errors
/// The stream's.
pub fn answer_key(mut stream: impl Write, key: &PublicKey) -> io::Result<()> {
    stream.write_all(key.as_bytes())
}

/// An owner's side: asks for the public key of an agent. Nothing proves that it is true.
///
/// # Errors
/// The stream's.
pub fn query_key(mut stream: impl Read + Write) -> io::Result<PublicKey> {
    stream.write_all(&Hello::Key.bytes())?;
    let mut key = [0; KEY_BYTES];
    stream.read_exact(&mut key)?;
    Ok(PublicKey(key))
}

/// An agent's side of the handshake, after [`read_hello`]: returns the channel, and the key that the owner has shown.
/// Whoever has seen that owner's first bytes can repeat them, so the key is proven by the first message that is
/// received.
///
/// # Errors
/// The stream's; or that the client does not know the agent's key.
pub fn accept<S: Read + Write>(
    mut stream: S,
    secret: &SecretKey,
) -> io::Result<(Channel<S>, PublicKey)> {
    let mut handshake = noise::builder(&PREFACE, secret.bytes())
        .and_then(snow::Builder::build_responder)
        .map_err(of_noise)?;
    let (mut frame, mut payload) = (Vec::new(), [0; HANDSHAKE_FRAME_MAX]);
    read_frame(&mut stream, HANDSHAKE_FRAME_MAX, &mut frame)?;
    handshake
        .read_message(&frame, &mut payload)
        .map_err(of_noise)?;
    let shown = handshake
        .get_remote_static()
        .and_then(PublicKey::from_bytes);
    let owner = shown.ok_or_else(|| invalid("the client has shown no key"))?;
    let count = handshake
        .write_message(&[], &mut payload)
        .map_err(of_noise)?;
    let mut answer = Vec::new();
    push_length(&mut answer, count)?;
    answer.extend_from_slice(&payload[..count]);
    stream.write_all(&answer)?;
    let codec = Codec::noise(handshake.into_transport_mode().map_err(of_noise)?);
    Ok((Channel { stream, codec }, owner))
}

/// Reads a frame of at most `max` bytes, without its length.
fn read_frame(stream: &mut impl Read, max: usize, frame: &mut Vec<u8>) -> io::Result<()> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let length = usize::from(u16::from_be_bytes(length));
    if length == 0 || length > max {
        return Err(invalid(format!("the peer sent a frame of {length} bytes")));
    }
    frame.clear();
    frame.resize(length, 0);
    stream.read_exact(frame)
}

/// A stream on which messages travel.
#[derive(Debug)]
pub struct Channel<S> {
    stream: S,
    codec: Codec,
}

impl<S: Read + Write> Channel<S> {
    /// An agent's side without encryption, after [`read_hello`].
    pub fn plain(stream: S) -> Channel<S> {
        let codec = Codec::plain();
        Channel { stream, codec }
    }

    /// An owner's side without encryption.
    ///
    /// # Errors
    /// The stream's.
    pub fn open_plain(mut stream: S) -> io::Result<Channel<S>> {
        stream.write_all(&Hello::Plain.bytes())?;
        Ok(Channel::plain(stream))
    }

    /// An owner's side of the handshake with the agent that has the key `agent`.
    ///
    /// # Errors
    /// The stream's; `UnexpectedEof` if the agent has another key.
    pub fn open(mut stream: S, secret: &SecretKey, agent: &PublicKey) -> io::Result<Channel<S>> {
        let mut handshake = noise::builder(&PREFACE, secret.bytes())
            .and_then(|builder| builder.remote_public_key(agent.as_bytes()))
            .and_then(snow::Builder::build_initiator)
            .map_err(of_noise)?;
        let mut payload = [0; HANDSHAKE_FRAME_MAX];
        let count = handshake
            .write_message(&[], &mut payload)
            .map_err(of_noise)?;
        let mut out = Hello::Noise.bytes();
        push_length(&mut out, count)?;
        out.extend_from_slice(&payload[..count]);
        stream.write_all(&out)?;
        let mut frame = Vec::new();
        read_frame(&mut stream, HANDSHAKE_FRAME_MAX, &mut frame)?;
        handshake
            .read_message(&frame, &mut payload)
            .map_err(of_noise)?;
        let codec = Codec::noise(handshake.into_transport_mode().map_err(of_noise)?);
        Ok(Channel { stream, codec })
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The stream's.
    pub fn send(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let mut out = Vec::new();
        self.codec.seal(kind, payload, &mut out)?;
        self.stream.write_all(&out)
    }

    fn send_message(&mut self, message: &impl Serialize) -> io::Result<()> {
        let bytes = message::encode(message).map_err(invalid)?;
        if bytes.len() > PAYLOAD_MAX {
            return Err(invalid("the message is longer than a frame"));
        }
        self.send(Kind::Message, &bytes)
    }

    /// Sends a request. An owner does so once, first of all.
    ///
    /// # Errors
    /// The stream's; `InvalidData` if the request is longer than a frame.
    pub fn send_request(&mut self, request: &Request) -> io::Result<()> {
        self.send_message(request)
    }

    /// Sends an answer.
    ///
    /// # Errors
    /// The stream's.
    pub fn send_answer(&mut self, answer: &Answer) -> io::Result<()> {
        self.send_message(answer)
    }

    /// Receives a message, whose payload replaces what is in `payload`.
    ///
    /// # Errors
    /// The stream's; `InvalidData` if the peer has not sealed it.
    pub fn receive(&mut self, payload: &mut Vec<u8>) -> io::Result<Kind> {
        let mut frame = Vec::new();
        read_frame(&mut self.stream, FRAME_MAX, &mut frame)?;
        payload.clear();
        self.codec.open(&frame, payload)
    }

    fn receive_message(&mut self) -> io::Result<Vec<u8>> {
        let mut payload = Vec::new();
        match self.receive(&mut payload)? {
            Kind::Message => Ok(payload),
            kind => Err(invalid(format!("a message was expected, not {kind:?}"))),
        }
    }

    /// Receives a request.
    ///
    /// # Errors
    /// See [`Channel::receive`].
    pub fn receive_request(&mut self) -> io::Result<Request> {
        let bytes = self.receive_message()?;
        let request: Request = message::decode(&bytes).map_err(invalid)?;
        match request.is_valid() {
            true => Ok(request),
            false => Err(invalid("the request has numbers that make no sense")),
        }
    }

    /// Receives an answer.
    ///
    /// # Errors
    /// See [`Channel::receive`].
    pub fn receive_answer(&mut self) -> io::Result<Answer> {
        message::decode(&self.receive_message()?).map_err(invalid)
    }

    /// The stream and the codec, which continue elsewhere. Nothing has been read ahead.
    pub fn into_parts(self) -> (S, Codec) {
        (self.stream, self.codec)
    }

    /// The stream.
    pub fn stream(&self) -> &S {
        &self.stream
    }
}

/// The answer that a payload of [`Kind::Message`] holds.
///
/// # Errors
/// If it holds none.
pub(super) fn answer_of(payload: &[u8]) -> io::Result<Answer> {
    message::decode(payload).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::thread;

    fn keys() -> (SecretKey, SecretKey) {
        (
            SecretKey::from_bytes([1; KEY_BYTES]),
            SecretKey::from_bytes([2; KEY_BYTES]),
        )
    }

    fn agent(stream: UnixStream) -> io::Result<(Channel<UnixStream>, PublicKey)> {
        assert_eq!(read_hello(&stream)?, Hello::Noise);
        accept(stream, &keys().1)
    }

    #[test]
    fn messages_of_any_size_travel_both_ways_and_keys_change() {
        let (here, there) = UnixStream::pair().unwrap();
        let echo = thread::spawn(move || {
            let (mut channel, owner) = agent(there).unwrap();
            assert_eq!(owner, keys().0.public());
            let mut payload = Vec::new();
            while let Ok(kind) = channel.receive(&mut payload) {
                channel.send(kind, &payload).unwrap();
            }
        });
        let (owner, agent) = keys();
        let mut channel = Channel::open(here, &owner, &agent.public()).unwrap();
        let mut answer = Vec::new();
        for size in [0, 1, PAYLOAD_MAX] {
            let payload = vec![7; size];
            channel.send(Kind::Output, &payload).unwrap();
            assert_eq!(channel.receive(&mut answer).unwrap(), Kind::Output);
            assert!(answer == payload);
        }
        // Beyond the first change of keys.
        for number in 0..70_000_u32 {
            let payload = number.to_le_bytes();
            channel.send(Kind::Data, &payload).unwrap();
            assert_eq!(channel.receive(&mut answer).unwrap(), Kind::Data);
            assert_eq!(answer, payload);
        }
        drop(channel);
        echo.join().unwrap();
    }

    #[test]
    fn an_agent_with_another_key_is_not_believed() {
        let (here, there) = UnixStream::pair().unwrap();
        let refusing = thread::spawn(move || agent(there).err().unwrap().kind());
        let (owner, _) = keys();
        let another = SecretKey::from_bytes([3; KEY_BYTES]).public();
        let error = Channel::open(here, &owner, &another).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(refusing.join().unwrap(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_message_that_was_changed_on_its_way_is_refused() {
        let (here, there) = UnixStream::pair().unwrap();
        let receiving = thread::spawn(move || {
            let (mut channel, _) = agent(there).unwrap();
            channel
                .receive(&mut Vec::new())
                .err()
                .map(|error| error.kind())
        });
        let (owner, agent) = keys();
        let channel = Channel::open(here, &owner, &agent.public()).unwrap();
        let (mut stream, mut codec) = channel.into_parts();
        let mut frame = Vec::new();
        codec.seal(Kind::Data, b"hello", &mut frame).unwrap();
        *frame.last_mut().unwrap() ^= 1;
        stream.write_all(&frame).unwrap();
        let kind = receiving.join().unwrap();
        assert_eq!(kind, Some(io::ErrorKind::InvalidData));
    }

    #[test]
    fn the_key_of_an_agent_can_be_asked_for() {
        let (here, there) = UnixStream::pair().unwrap();
        let answering = thread::spawn(move || {
            assert_eq!(read_hello(&there).unwrap(), Hello::Key);
            answer_key(&there, &keys().1.public()).unwrap();
        });
        assert_eq!(query_key(here).unwrap(), keys().1.public());
        answering.join().unwrap();
    }
}
