//! A msgpack-rpc client of plain blocking sockets, over a codec that is not ours.

use super::LONG;
use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::{Value, json};
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

/// A value in msgpack.
pub fn pack(value: &impl Serialize) -> Vec<u8> {
    rmp_serde::to_vec(value).unwrap()
}

/// A request in msgpack.
pub fn request(id: u32, method: &str, params: &[Value]) -> Vec<u8> {
    pack(&json!([0, id, method, params]))
}

/// A message of which only the first element counts: 0 request, 1 response, 2 notification. What a JSON value cannot
/// hold (numbers as keys, extensions) is no harm in the rest.
pub struct Kind(pub u64);

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
        struct Elements;

        impl<'de> Visitor<'de> for Elements {
            type Value = Kind;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a message")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Kind, A::Error> {
                let kind = elements.next_element()?.unwrap_or(u64::MAX);
                while elements.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Kind(kind))
            }
        }

        deserializer.deserialize_seq(Elements)
    }
}

/// One connection, with no knowledge of yue: no hello, no extensions.
pub struct Raw {
    stream: BufReader<TcpStream>,
    last_id: u32,
}

impl Raw {
    #[track_caller]
    pub fn connect(host_and_port: &str) -> Raw {
        let stream = TcpStream::connect(host_and_port).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        Raw {
            stream: BufReader::new(stream),
            last_id: 0,
        }
    }

    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Sends bytes. A server that has closed meanwhile is no error here.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.get_mut().write_all(bytes);
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        let _ = self.socket().shutdown(std::net::Shutdown::Write);
    }

    /// The next message, or `None` when the server has closed.
    #[track_caller]
    pub fn next(&mut self) -> Option<Value> {
        self.next_as()
    }

    /// The next message, read as a `T`.
    #[track_caller]
    pub fn next_as<T: DeserializeOwned>(&mut self) -> Option<T> {
        match rmp_serde::from_read(&mut self.stream) {
            Ok(value) => Some(value),
            Err(rmp_serde::decode::Error::InvalidMarkerRead(error)) => {
                let closed = [
                    std::io::ErrorKind::UnexpectedEof,
                    std::io::ErrorKind::ConnectionReset,
                ];
                assert!(closed.contains(&error.kind()), "{error}");
                None
            }
            Err(error) => panic!("the server sent no msgpack: {error}"),
        }
    }

    /// Everything until the server closes, and that it closes.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
        }
        bytes
    }

    /// Calls, and waits for the answer: the result, or the error.
    #[track_caller]
    pub fn call(&mut self, method: &str, params: &[Value]) -> Result<Value, Value> {
        self.last_id += 1;
        self.send(&request(self.last_id, method, params));
        self.answer(self.last_id)
    }

    /// The next message, which is the answer to request `id`.
    #[track_caller]
    pub fn answer(&mut self, id: u32) -> Result<Value, Value> {
        let Some(Value::Array(answer)) = self.next() else {
            panic!("the server closed instead of answering");
        };
        assert_eq!(answer[..2], [json!(1), json!(id)]);
        match &answer[2] {
            Value::Null => Ok(answer[3].clone()),
            error => Err(error.clone()),
        }
    }
}
