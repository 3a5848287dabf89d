//! Tests of requests and answers.

use super::*;
use proptest::prelude::*;

fn rules(origins: Option<&[&str]>) -> Rules {
    Rules {
        path: "/rpc".to_owned(),
        host: "game.example".to_owned(),
        origins: origins.map(|all| all.iter().map(|&one| one.to_owned()).collect()),
    }
}

/// A good request with a change: a header is replaced, removed (an empty value) or added.
fn request_with(changes: &[(&str, &str)]) -> Vec<u8> {
    let mut headers = vec![
        ("Host", "127.0.0.1:8080"),
        ("Upgrade", "websocket"),
        ("Connection", "keep-alive, Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ];
    for &(name, value) in changes {
        headers.retain(|(other, _)| *other != name);
        if !value.is_empty() {
            headers.push((name, value));
        }
    }
    let lines = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"));
    format!("GET /rpc HTTP/1.1\r\n{}\r\n", lines.collect::<String>()).into_bytes()
}

fn status(head: &[u8], rules: &Rules) -> u16 {
    match answer(head, rules) {
        Ok(response) => {
            assert!(response.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
            assert!(response.ends_with(b"\r\n\r\n"));
            101
        }
        Err(refusal) => {
            let response = String::from_utf8(refusal.to_bytes()).unwrap();
            let (head, body) = response.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {} ", refusal.status)));
            assert!(!head.contains("Refused"), "{head}");
            assert!(head.ends_with(&format!("Content-Length: {}", body.len())));
            refusal.status
        }
    }
}

fn status_with(changes: &[(&str, &str)]) -> u16 {
    status(&request_with(changes), &rules(None))
}

#[test]
fn the_rfcs_example_is_answered_as_the_rfc_says() {
    let response = answer(&request_with(&[]), &rules(None)).unwrap();
    let response = String::from_utf8(response).unwrap();
    assert!(response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    assert!(!response.contains("Sec-WebSocket-Protocol"));
    assert!(!response.contains("Sec-WebSocket-Extensions"));
}

#[test]
fn the_subprotocol_is_echoed_if_it_is_offered() {
    for (offer, chosen) in [
        ("msgpack-rpc", true),
        ("chat, msgpack-rpc", true),
        ("chat", false),
    ] {
        let response = answer(
            &request_with(&[("Sec-WebSocket-Protocol", offer)]),
            &rules(None),
        );
        let response = String::from_utf8(response.unwrap()).unwrap();
        assert_eq!(
            response.contains("Sec-WebSocket-Protocol: msgpack-rpc\r\n"),
            chosen
        );
    }
}

#[test]
fn a_request_that_asks_for_something_else_is_refused() {
    assert_eq!(status_with(&[]), 101);
    assert_eq!(status_with(&[("Upgrade", "")]), 426);
    assert_eq!(status_with(&[("Upgrade", "h2c")]), 426);
    assert_eq!(status_with(&[("Connection", "keep-alive")]), 426);
    assert_eq!(status_with(&[("Sec-WebSocket-Version", "8")]), 426);
    assert_eq!(status_with(&[("Sec-WebSocket-Version", "")]), 426);
    assert_eq!(status_with(&[("Sec-WebSocket-Key", "")]), 400);
    assert_eq!(status_with(&[("Sec-WebSocket-Key", "c2hvcnQ=")]), 400);
    assert_eq!(
        status_with(&[("Sec-WebSocket-Key", "not base64 at all!!!!!!!")]),
        400
    );
    assert_eq!(status_with(&[("Host", "")]), 400);
    assert_eq!(status_with(&[("Content-Length", "5")]), 400);
    assert_eq!(status_with(&[("Content-Length", "0")]), 101);
    assert_eq!(status_with(&[("Transfer-Encoding", "chunked")]), 400);
    let rules = rules(None);
    let text = String::from_utf8(request_with(&[])).unwrap();
    let swapped = |from: &str, to: &str| status(text.replace(from, to).as_bytes(), &rules);
    assert_eq!(swapped("/rpc", "/"), 404);
    assert_eq!(swapped("/rpc", "/rpc/more"), 404);
    assert_eq!(swapped("/rpc", "/rpc?token=1"), 101);
    assert_eq!(swapped("GET", "POST"), 405);
    assert_eq!(swapped("HTTP/1.1", "HTTP/1.0"), 505);
    assert_eq!(swapped("HTTP/1.1", "HTTP/2.0"), 505);
    assert_eq!(swapped("Host:", "Host: a\r\nHost:"), 400);
    assert_eq!(swapped("Upgrade: websocket", "Upgrade websocket"), 400);
    assert_eq!(swapped("\r\n\r\n", &"\r\na: b".repeat(200)), 431);
    assert_eq!(status(b"\x94\x00\x01\xa1f\x90\r\n\r\n", &rules), 400);
}

#[test]
fn a_page_of_another_host_may_not_connect() {
    let check = |host: &str, origin: &str| status_with(&[("Host", host), ("Origin", origin)]);
    assert_eq!(check("127.0.0.1:8080", ""), 101, "not a browser");
    assert_eq!(check("anything:8080", ""), 101, "not a browser");
    assert_eq!(check("127.0.0.1:8080", "http://127.0.0.1:3000"), 101);
    assert_eq!(check("[::1]:8080", "http://[::1]:3000"), 101);
    assert_eq!(check("localhost:8080", "http://localhost"), 101);
    assert_eq!(check("game.example:8080", "https://Game.example"), 101);
    assert_eq!(check("127.0.0.1:8080", "http://evil.example"), 403);
    assert_eq!(check("127.0.0.1:8080", "null"), 403);
    assert_eq!(
        check("localhost:8080", "http://localhost.evil.example"),
        403
    );
    // Its name resolves to this machine, so host and origin agree.
    assert_eq!(check("evil.example:8080", "http://evil.example:8080"), 403);
}

#[test]
fn only_listed_origins_may_connect_if_there_is_a_list() {
    let check = |listed: &[&str], origin: &str| {
        let head = request_with(&[("Origin", origin)]);
        status(&head, &rules(Some(listed)))
    };
    let listed = ["https://game.example", "http://localhost:3000"];
    assert_eq!(check(&listed, ""), 101);
    assert_eq!(check(&listed, "https://game.example"), 101);
    assert_eq!(check(&listed, "http://localhost:3000"), 101);
    assert_eq!(check(&listed, "http://game.example"), 403);
    assert_eq!(check(&listed, "http://localhost:3001"), 403);
    assert_eq!(check(&listed, "http://127.0.0.1:8080"), 403);
    assert_eq!(check(&listed, "null"), 403);
    assert_eq!(check(&["*"], "http://anywhere.example"), 101);
    assert_eq!(check(&[], "http://127.0.0.1:8080"), 403);
}

#[test]
fn a_client_and_a_server_agree() {
    let key = key_of([7; 16]);
    for host in ["127.0.0.1", "::1", "fe80::1%eth0", "game.example"] {
        let request = request(host, 8080, "/rpc", &key);
        assert_eq!(find_end(&request, 0), Some(request.len()));
        let response = answer(&request, &rules(None)).unwrap();
        assert_eq!(find_end(&response, 0), Some(response.len()));
        check_answer(&response, &key).unwrap();
        let other = check_answer(&response, &key_of([8; 16])).unwrap_err();
        assert!(matches!(other, Rejection::Fault(text) if text.contains("another request")));
    }
    assert!(
        String::from_utf8(request("fe80::1%eth0", 80, "/", "k"))
            .unwrap()
            .contains("Host: [fe80::1]:80\r\n")
    );
}

#[test]
fn an_answer_that_refuses_is_told_from_one_that_is_wrong() {
    let check = |response: &[u8]| check_answer(response, &key_of([7; 16])).unwrap_err();
    let refusal = Refusal::new(404, "There is nothing at this path.").to_bytes();
    let expected = Rejection::Status {
        text: "404 Not Found".to_owned(),
        body_bytes: Some(31),
    };
    assert_eq!(check(&refusal), expected);
    let faults: [(&[u8], &str); 4] = [
        (
            b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
            "does not speak HTTP: it answered \"SSH-2.0-OpenSSH_9.9\"",
        ),
        (b"HTTP/1.1 101 x\r\n\r\n", "another protocol"),
        (
            b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            "Sec-WebSocket-Accept",
        ),
        (b"\x94\x01\x00\r\n\r\n", "does not speak HTTP"),
    ];
    for (response, expected) in faults {
        let fault = check(response);
        assert!(
            matches!(&fault, Rejection::Fault(text) if text.contains(expected)),
            "{fault:?}"
        );
    }
    let key = key_of([7; 16]);
    let good =
        String::from_utf8(answer(&request("a", 1, "/rpc", &key), &rules(None)).unwrap()).unwrap();
    for (more, expected) in [
        (
            "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
            "extension",
        ),
        ("Sec-WebSocket-Protocol: chat\r\n\r\n", "subprotocol"),
    ] {
        let mut bad = good.replace("Sec-WebSocket-Protocol: msgpack-rpc\r\n", "");
        bad.truncate(bad.len() - 2);
        let fault = check((bad + more).as_bytes());
        assert!(
            matches!(&fault, Rejection::Fault(text) if text.contains(expected)),
            "{fault:?}"
        );
    }
}

#[test]
fn an_excerpt_is_short_and_printable() {
    assert_eq!(excerpt(b"  plain \xc3\xa4\r\n"), "plain ä");
    assert_eq!(excerpt(b"a\x1b[2Jb"), "a\\u{1b}[2Jb");
    assert_eq!(excerpt(b"\xff\x00"), "\\xff\\x00");
    let long = excerpt(&[b'x'; 1000]);
    assert_eq!(long, format!("{}...", "x".repeat(EXCERPT_MAX)));
}

#[test]
fn the_end_of_a_block_is_found_wherever_the_pieces_end() {
    let head = request_with(&[]);
    for seen in 0..head.len() {
        assert_eq!(find_end(&head[..seen], 0), None);
        assert_eq!(find_end(&head, seen), Some(head.len()));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let rules = rules(None);
        let mut heads = vec![bytes.clone()];
        let good = request_with(&[]);
        let at = bytes.len() * 7 % good.len();
        heads.push([&good[..at], &bytes, &good[at..]].concat());
        for head in heads {
            status(&head, &rules);
            let _ = check_answer(&head, "key");
            let _ = find_end(&head, at);
        }
    }
}
