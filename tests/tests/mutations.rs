//! Valid sessions, changed at random, against a running `yue` server: it answers in msgpack-rpc or closes, and serves
//! the next client.
//!
//! A failure prints `YUE_MUTATIONS_SEED=…`, which replays it. `YUE_MUTATIONS` is how many sessions are tried.

mod common;

use common::wire::{Kind, pack, request};
use common::{Server, script};
use serde_json::{Value, json};

/// Sessions in an ordinary run: a second or two.
const SESSIONS: u64 = 1_000;

/// Marsaglia's xorshift64*: few lines, and the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end.max(1)
    }
}

/// The messages of a session that a client might have.
fn messages() -> Vec<Vec<u8>> {
    let rich = json!([null, true, -1, 1.5, 4294967296u64, "text", ["nested", ["more"]], {"key": {"key": []}}]);
    vec![
        pack(&json!([
            0,
            1,
            "$yue/hello",
            [1, ["cancel", "deadline", "references"]]
        ])),
        request(2, "hello", &["you".into()]),
        request(3, "math.add", &[20.into(), 22.into()]),
        request(4, "echo", &[rich]),
        request(
            5,
            "echo",
            &["x".repeat(300).into(), Value::Null, Value::Null],
        ),
        request(6, "fail", &[]),
        request(7, "ask_back", &[1.into(), 2.into()]),
        pack(&json!([1, 0, null, 3])),
        pack(&json!([1, 1, [-1, "words", {"type": "RuntimeError"}], null])),
        pack(&json!([2, "note", ["noted"]])),
        pack(&json!([0, 8, "hello", ["you"], {"t": 1000, "chain": 5}])),
        pack(&json!([2, "$yue/cancel", [4]])),
        pack(&json!([2, "$yue/release", [[[1, 1]]]])),
        b"\x94\x00\x09\xa4echo\x91\xd5\x59\x01\x01".to_vec(),
        b"\x94\x00\x0a\xc4\x05hello\x91\xc4\x02\xff\xfe".to_vec(),
    ]
}

/// A session of some of the messages, with some of its bytes changed.
fn session(random: &mut Random) -> Vec<u8> {
    let messages = messages();
    let mut bytes = Vec::new();
    for _ in 0..=random.below(10) {
        bytes.extend_from_slice(&messages[random.below(messages.len())]);
    }
    for _ in 0..random.below(6) {
        change(&mut bytes, random);
    }
    bytes
}

/// Bytes that mean much in msgpack: headers of every length, the ends of the numbers.
const TELLING: [u8; 20] = [
    0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc4, 0xc6, 0xc7, 0xcf, 0xd4, 0xd8,
    0xdb, 0xdd, 0xdf, 0xff,
];

fn change(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    let at = random.below(bytes.len());
    let until = (at + 1 + random.below(20)).min(bytes.len());
    match random.below(7) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = TELLING[random.below(TELLING.len())],
        2 => bytes.insert(at, TELLING[random.below(TELLING.len())]),
        3 => drop(bytes.drain(at..until)),
        4 => bytes.truncate(at),
        5 => {
            let piece = bytes[at..until].to_vec();
            let to = random.below(bytes.len());
            bytes.splice(to..to, piece);
        }
        _ => bytes[at..until].fill(random.next() as u8),
    }
}

/// Plays one session; the server must speak msgpack-rpc, and close once the client has said that it is done.
fn play(server: &Server, seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let bytes = session(&mut random);
    let mut client = server.connect();
    client.socket().set_nodelay(true).unwrap();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(1 + random.below(rest.len().min(200)));
        client.send(piece);
        rest = after;
    }
    client.finish();
    while let Some(Kind(kind)) = client.next_as() {
        assert!(kind <= 2, "the server sent a message of kind {kind}");
    }
}

#[test]
fn changed_sessions_are_answered_or_closed_and_the_next_client_is_served() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    let server = Server::start(script("server.lua"));
    let seeds = match number("YUE_MUTATIONS_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = u64::from(std::process::id()) << 32;
            first..first + number("YUE_MUTATIONS").unwrap_or(SESSIONS)
        }
    };
    let memory = server.running.memory();
    for seed in seeds {
        let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            play(&server, seed);
            server.serves();
        }));
        if played.is_err() {
            panic!("YUE_MUTATIONS_SEED={seed} replays this");
        }
    }
    let more = server.running.memory().saturating_sub(memory);
    assert!(more < 100 << 20, "{} MiB more", more >> 20);
    // What a changed message calls may fail by itself.
    server
        .end()
        .logs_only_attacks(&["fail", "ask_back", "hello", "math.add", "bytes"]);
}
