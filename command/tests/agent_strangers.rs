//! Strangers at an agent: wrong keys, replays, garbage and silence get no node, and keep no owner out.

mod common;

use common::agents::{Agent, Home, YUE, assert_has, eventually};
use common::drivers;
use std::io::{Read, Write};
use std::net::TcpStream;
use yue::nalloc::agent::{
    Answer, Channel, Kind, PREFACE, PublicKey, Request, SecretKey, VERSION, query_key,
};

/// A stream that keeps what was sent.
struct Recorder {
    stream: TcpStream,
    sent: Vec<u8>,
}

impl Read for Recorder {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.stream.read(into)
    }
}

impl Write for Recorder {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.sent.extend_from_slice(bytes);
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An agent for an owner that is this test.
fn agent_of_this_test(driver: &str) -> (Agent, SecretKey, PublicKey) {
    let secret = SecretKey::generate().expect("a key");
    let home = Home::new();
    home.authorize(&secret.public().to_string());
    let agent = Agent::start_in(home, driver, &["--listen", "127.0.0.1:0"]);
    let key = query_key(agent.connect()).expect("a key");
    assert_eq!(key.to_string(), agent.key);
    (agent, secret, key)
}

/// Waits until the agent has closed the connection; returns what it sent.
fn read_to_end(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end, too.
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    bytes
}

fn own_request() -> Request {
    let mut request = Request {
        version: VERSION,
        ..Request::default()
    };
    let binary = yue::nalloc::agent::Binary::of(std::fs::File::open(YUE).expect("yue"));
    let binary = binary.expect("yue");
    (request.binary, request.binary_size) = (binary.hash, binary.size);
    request
}

#[test]
fn a_recorded_conversation_starts_no_second_node() {
    for driver in drivers() {
        let (agent, secret, key) = agent_of_this_test(&driver);
        let recorder = Recorder {
            stream: agent.connect(),
            sent: Vec::new(),
        };
        let mut channel = Channel::open(recorder, &secret, &key).expect("a channel");
        channel.send_request(&own_request()).expect("a request");
        let answer = channel.receive_answer().expect("an answer");
        assert!(matches!(answer, Answer::Started { .. }), "{answer:?}");
        assert_eq!(agent.nodes(), 1);
        let (recorder, _) = channel.into_parts();
        for _ in 0..3 {
            let mut replay = agent.connect();
            replay.write_all(&recorder.sent).expect("it is sent");
            // The agent's half of the handshake, and nothing more.
            assert_eq!(read_to_end(replay).len(), 2 + 48);
        }
        assert_eq!(agent.nodes(), 1);
        assert_has(&agent.log(), "cannot be decrypted");
        drop(recorder);
        eventually("the node ends with its owner", || agent.nodes() == 0);
    }
}

#[test]
fn garbage_and_half_open_connections_keep_no_owner_out() {
    for driver in drivers() {
        let (agent, secret, key) = agent_of_this_test(&driver);
        // More than the agent has room for; some have begun to speak.
        let silent: Vec<TcpStream> = (0..200)
            .map(|number| {
                let mut stream = agent.connect();
                let _ = stream.write_all(&PREFACE[..number % 9]);
                stream
            })
            .collect();
        let preface = PREFACE.to_vec();
        let inputs = [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec![0; 100_000],
            [&preface[..], b"X"].concat(),
            // Without encryption, by the network.
            [&preface[..], b"P"].concat(),
            // Frames without bytes, and with too many.
            [&preface[..], b"N\0\0"].concat(),
            [&preface[..], b"N\xff\xff", &[7; 70_000][..]].concat(),
            [&preface[..], b"N\x00\x60", &[7; 96][..]].concat(),
        ];
        for input in inputs {
            let mut stream = agent.connect();
            // The agent may have closed it already.
            let _ = stream.write_all(&input);
            assert_eq!(read_to_end(stream), b"");
        }
        let mut channel = Channel::open(agent.connect(), &secret, &key).expect("a channel");
        channel.send_request(&own_request()).expect("a request");
        assert!(matches!(
            channel.receive_answer(),
            Ok(Answer::Started { .. })
        ));
        assert_eq!(agent.nodes(), 1);
        let open = std::fs::read_dir(format!("/proc/{}/fd", agent.child.id()));
        let open = open.expect("descriptors").count();
        assert!(
            open < 120,
            "{open} descriptors are open for {} strangers",
            silent.len()
        );
        // The oldest were closed for the newer ones.
        assert_eq!(read_to_end(silent.into_iter().next().expect("one")), b"");
        drop(channel);
        eventually("the node ends with its owner", || agent.nodes() == 0);
    }
}

#[test]
fn no_change_to_a_handshake_passes() {
    let (agent, secret, key) = agent_of_this_test("mio");
    let mut random = 1_u64;
    let mut next = move |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) as usize % below
    };
    let mut recorded = Vec::new();
    for round in 0..300 {
        if round % 30 == 0 {
            let recorder = Recorder {
                stream: agent.connect(),
                sent: Vec::new(),
            };
            let mut channel = Channel::open(recorder, &secret, &key).expect("a channel");
            channel
                .send_request(&own_request_cached())
                .expect("a request");
            recorded = channel.into_parts().0.sent;
        }
        let mut bytes = recorded.clone();
        // A handshake that was changed, cut, or repeated in part.
        match next(3) {
            0 => {
                let at = next(bytes.len());
                bytes[at] ^= 1 << next(8);
            }
            1 => bytes.truncate(next(bytes.len())),
            _ => {
                let at = next(bytes.len());
                let copy = bytes[at..].to_vec();
                bytes.extend_from_slice(&copy);
            }
        }
        let mut stream = agent.connect();
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let answer = read_to_end(stream);
        assert!(
            answer.is_empty() || answer.len() == 32 || answer.len() == 50,
            "round {round}"
        );
    }
    eventually("only owners that were there had nodes", || {
        agent.nodes() == 0
    });
    let mut channel = Channel::open(agent.connect(), &secret, &key).expect("a channel");
    channel
        .send_request(&own_request_cached())
        .expect("a request");
    assert!(matches!(
        channel.receive_answer(),
        Ok(Answer::Started { .. })
    ));
}

fn own_request_cached() -> Request {
    static KNOWN: std::sync::OnceLock<Request> = std::sync::OnceLock::new();
    KNOWN.get_or_init(own_request).clone()
}

#[test]
fn frames_of_an_owner_that_make_no_sense_end_its_node_alone() {
    let (agent, secret, key) = agent_of_this_test("mio");
    let open = || {
        let mut channel = Channel::open(agent.connect(), &secret, &key).expect("a channel");
        channel
            .send_request(&own_request_cached())
            .expect("a request");
        assert!(matches!(
            channel.receive_answer(),
            Ok(Answer::Started { .. })
        ));
        channel
    };
    let other = open();
    let mut garbled = open();
    garbled.send(Kind::Binary, b"not now").expect("it is sent");
    let (mut stream, _) = garbled.into_parts();
    stream.write_all(&[0xff; 70_000]).expect("it is sent");
    eventually("its node ends", || agent.nodes() == 1);
    drop(other);
    eventually("so does the other with its owner", || agent.nodes() == 0);

    let mut channel = Channel::open(agent.connect(), &secret, &key).expect("a channel");
    channel
        .send(Kind::Message, b"\xc1\xc1\xc1")
        .expect("it is sent");
    assert!(channel.receive_answer().is_err());
}

#[test]
fn a_program_that_is_not_what_its_owner_said_is_not_kept() {
    let (agent, secret, key) = agent_of_this_test("mio");
    let mut channel = Channel::open(agent.connect(), &secret, &key).expect("a channel");
    let request = Request {
        version: VERSION,
        binary: "a".repeat(64),
        binary_size: 5,
        ..Request::default()
    };
    channel.send_request(&request).expect("a request");
    assert_eq!(
        channel.receive_answer().expect("an answer"),
        Answer::SendBinary
    );
    channel.send(Kind::Binary, b"12345").expect("it is sent");
    let answer = channel.receive_answer().expect("an answer");
    assert!(
        matches!(&answer, Answer::Refused(text) if text.contains("another hash")),
        "{answer:?}"
    );
    for (binary, binary_size) in [("../../../etc/passwd", 5), (&"a".repeat(64), u64::MAX)] {
        let mut channel = Channel::open(agent.connect(), &secret, &key).expect("a channel");
        let request = Request {
            binary: binary.to_owned(),
            binary_size,
            ..request.clone()
        };
        channel.send_request(&request).expect("a request");
        assert!(matches!(channel.receive_answer(), Ok(Answer::Refused(_))));
    }
    let cache = std::fs::read_dir(agent.home.path().join("cache/yue/bin"));
    assert_eq!(cache.expect("a folder").count(), 0);
    assert_eq!(agent.nodes(), 0);
}
