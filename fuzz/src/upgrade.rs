//! The requests that open WebSockets, and their answers: any bytes get one well-formed response, and a browser's page
//! gets in only by its origin.
//!
//! ```text
//!   input:  the rules (1 byte) | a block of headers, of a request or of an answer
//! ```

use yue_rpc::transport::websocket::upgrade::{self, HEAD_MAX, Rejection, Rules};

/// Answers the bytes as a server, and reads them as a client.
///
/// # Panics
/// If either does not keep its promises.
pub fn check(data: &[u8]) {
    let [flags, head @ ..] = data else {
        return;
    };
    let listed = ["https://game.example", "http://localhost:3000"];
    let rules = Rules {
        path: ["/", "/rpc"][usize::from(flags & 1)].to_owned(),
        host: "game.example".to_owned(),
        origins: (flags & 2 != 0).then(|| listed.map(str::to_owned).to_vec()),
    };
    check_end(head);
    check_request(head, &rules);
    check_answer(head);
}

fn check_end(head: &[u8]) {
    let end = upgrade::find_end(head, 0);
    for seen in [1, head.len() / 2, head.len()] {
        // What was searched before has no end, or the search would have stopped.
        if end.is_none_or(|end| end > seen) {
            assert_eq!(upgrade::find_end(head, seen), end);
        }
    }
    if let Some(end) = end {
        assert!(head[..end].ends_with(b"\r\n\r\n"));
    }
}

fn check_request(head: &[u8], rules: &Rules) {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    match upgrade::answer(head, rules) {
        Ok(response) => {
            let response = String::from_utf8(response).expect("text");
            check_response(&response, 101);
            let path = format!("get {} http/1.1", rules.path);
            let query = format!("get {}?", rules.path);
            assert!(text.contains(&path) || text.contains(&query), "{text}");
            assert!(text.contains("sec-websocket-key"), "{text}");
            check_origin(&text, rules);
        }
        Err(refusal) => {
            let response = String::from_utf8(refusal.to_bytes()).expect("text");
            check_response(&response, refusal.status);
            let (_, body) = response.split_once("\r\n\r\n").expect("a body");
            assert_eq!(body, format!("{}\n", refusal.text));
        }
    }
}

/// One block of headers, none of which has control characters: nothing of a request is echoed into it.
fn check_response(response: &str, status: u16) {
    let (head, body) = response
        .split_once("\r\n\r\n")
        .expect("an end of the headers");
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    assert_eq!(body.is_empty(), status == 101);
    for line in head.split("\r\n") {
        assert!(
            !line.contains(char::is_control) && line.is_ascii(),
            "{line:?}"
        );
    }
}

/// Whoever names an origin has a listed one, or one of this host.
fn check_origin(text: &str, rules: &Rules) {
    let Some(origin) = text.split("\norigin:").nth(1) else {
        return;
    };
    let origin = origin.split("\r\n").next().unwrap_or("").trim();
    match &rules.origins {
        Some(listed) => assert!(listed.iter().any(|one| one == origin), "{origin:?}"),
        None => {
            let (_, authority) = origin.split_once("://").expect("a host");
            let host = match authority.strip_prefix('[') {
                Some(inner) => inner.split(']').next().unwrap_or(""),
                None => authority.split(':').next().unwrap_or(""),
            };
            let known = ["localhost", "game.example"].contains(&host);
            assert!(
                known || host.parse::<std::net::IpAddr>().is_ok(),
                "{origin:?}"
            );
        }
    }
}

fn check_answer(head: &[u8]) {
    let key = upgrade::key_of([7; 16]);
    match upgrade::check_answer(head, &key) {
        Ok(()) => {
            let text = String::from_utf8_lossy(head);
            assert!(text.contains(&upgrade::accept_of(key.as_bytes())), "{text}");
        }
        Err(Rejection::Fault(text)) | Err(Rejection::Status { text, .. }) => {
            assert!(!text.contains(char::is_control), "{text:?}");
            assert!(text.len() <= HEAD_MAX);
        }
    }
    let excerpt = upgrade::excerpt(head);
    assert!(!excerpt.contains(char::is_control), "{excerpt:?}");
}
