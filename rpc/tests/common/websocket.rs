//! A WebSocket client that speaks frames by hand, over any stream.

use std::io::{self, Read, Write};
use yue_rpc::transport::websocket::frame::{self, Close, Decoder, Item, Key, Opcode};

/// The masking key of all frames.
pub const KEY: Key = Key([0x12, 0x34, 0x56, 0x78]);

/// A frame of the server, or the end of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    Data(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>, String),
    /// The connection has ended without a close frame.
    End,
}

/// A client by hand.
pub struct RawClient<S> {
    pub stream: S,
    decoder: Decoder,
    bytes: Vec<u8>,
}

/// A request for a WebSocket, with more headers.
pub fn request(path: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

/// Reads a block of headers, byte by byte.
pub fn read_head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

impl<S: Read + Write> RawClient<S> {
    /// Opens a WebSocket over the stream.
    pub fn open(mut stream: S, path: &str) -> RawClient<S> {
        stream.write_all(request(path, "").as_bytes()).unwrap();
        let head = read_head(&mut stream).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        RawClient {
            stream,
            decoder: Decoder::new(false),
            bytes: Vec::new(),
        }
    }

    pub fn send(&mut self, payload: &[u8]) {
        let (header, payload) = frame::binary(payload.to_vec(), Some(KEY));
        self.send_raw(&header.unwrap_or_default());
        self.send_raw(&payload);
    }

    /// Sends a call with a number, or several, as its arguments.
    pub fn call(&mut self, id: u32, method: &str, values: &[i64]) {
        self.send(&call_bytes(id, method, values));
    }

    pub fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        self.send_raw(&frame::control(opcode, payload, Some(KEY)));
    }

    pub fn close(&mut self, code: u16, reason: &str) {
        self.send_raw(&frame::close(code, reason, Some(KEY)));
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next frame; data comes as the pieces in which it is read.
    pub fn receive(&mut self) -> Received {
        loop {
            let mut input = &self.bytes[..];
            let item = self.decoder.next(&mut input).expect("a server's frame");
            let received = match item {
                None => None,
                Some(Item::Data { bytes, key }) => {
                    assert_eq!(key, None, "a server does not mask");
                    Some(Received::Data(bytes.to_vec()))
                }
                Some(Item::Ping(payload)) => Some(Received::Ping(payload)),
                Some(Item::Pong) => Some(Received::Pong),
                Some(Item::Close(Close { code, reason })) => Some(Received::Close(code, reason)),
            };
            let taken = self.bytes.len() - input.len();
            self.bytes.drain(..taken);
            if let Some(received) = received {
                return received;
            }
            let mut more = [0; 4096];
            match self.stream.read(&mut more) {
                Ok(0) => return Received::End,
                Ok(count) => self.bytes.extend_from_slice(&more[..count]),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                    return Received::End;
                }
            }
        }
    }

    /// The data up to the close frame or the end, and how it ended.
    pub fn receive_all(&mut self) -> (Vec<u8>, Received) {
        let mut data = Vec::new();
        loop {
            match self.receive() {
                Received::Data(bytes) => data.extend(bytes),
                Received::Ping(_) | Received::Pong => {}
                end => return (data, end),
            }
        }
    }
}

/// A request in msgpack.
pub fn call_bytes(id: u32, method: &str, values: &[i64]) -> Vec<u8> {
    let mut out = Vec::new();
    let method = yue_rpc::proto::Method::Name(method.as_bytes());
    yue_rpc::proto::encode::request(&mut out, id, method, None, super::ints(values)).unwrap();
    out
}
