//! Tests of URLs, headers, and the keys of origins.

use super::pool::key_of;
use super::*;
use crate::address::Address;

fn target(text: &str) -> Target {
    Target::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn a_url_has_an_address_a_host_and_a_path() {
    for (text, address, host, path) in [
        (
            "http://example.com",
            "tcp://example.com:80",
            "example.com",
            "/",
        ),
        (
            "HTTP://EXAMPLE.com:80/A",
            "tcp://example.com:80",
            "example.com",
            "/A",
        ),
        (
            "https://example.com?q",
            "tls://example.com:443",
            "example.com",
            "/?q",
        ),
        (
            "http://example.com:8080/a?b#c",
            "tcp://example.com:8080",
            "example.com:8080",
            "/a?b",
        ),
        ("http://[::1]:1/", "tcp://[::1]:1", "[::1]:1", "/"),
        (
            "http://me:pw@127.0.0.1/",
            "tcp://127.0.0.1:80",
            "127.0.0.1",
            "/",
        ),
        ("http://0x7f.1/", "tcp://127.0.0.1:80", "127.0.0.1", "/"),
        (
            "http://bücher.example/ü",
            "tcp://xn--bcher-kva.example:80",
            "xn--bcher-kva.example",
            "/%C3%BC",
        ),
        ("http://a/../b/./c d", "tcp://a:80", "a", "/b/c%20d"),
        (
            "http://a/b|^`{}\"<>?|^`{}\"<>",
            "tcp://a:80",
            "a",
            "/b|^%60%7B%7D%22%3C%3E?|^`{}%22%3C%3E",
        ),
    ] {
        let target = target(text);
        let wanted: Address = address.parse().unwrap();
        assert_eq!(target.address(), wanted, "{text}");
        assert_eq!(
            (target.host(), target.path_and_query()),
            (host, path),
            "{text}"
        );
        assert_eq!(target.uri().unwrap().to_string(), path, "{text}");
    }
}

#[test]
fn what_is_not_a_url_is_refused() {
    for text in [
        "",
        "a",
        "/a",
        "//a/b",
        "http:",
        "http://",
        "http:///a b",
        "ftp://a/",
        "file:///a",
        "data:,a",
        "http://a:0/",
        "http://a:65536/",
        "http://a b/",
        "http://[::1/",
        "http://a/\r\nX: 1",
        "http://a/\t",
        " http://a/",
        "http://a/ ",
        "http://a/\0",
    ] {
        // The parser takes a host from any number of slashes.
        if text == "http:///a b" {
            assert!(
                Target::parse(text).is_err() || target(text).host() != "",
                "{text:?}"
            );
            continue;
        }
        let error = Target::parse(text).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::Address, "{text:?}");
    }
    let long = format!("ftp://{}", "x".repeat(10_000));
    assert!(Target::parse(&long).unwrap_err().message().len() < 1000);
}

#[test]
fn a_reference_is_resolved_and_checked() {
    let base = target("https://a/b/c?d");
    for (reference, wanted) in [
        ("", "https://a/b/c?d"),
        ("?x", "https://a/b/c?x"),
        ("x", "https://a/b/x"),
        ("../../../x", "https://a/x"),
        ("//b/x", "https://b/x"),
        ("http://a/", "http://a/"),
    ] {
        assert_eq!(
            base.join(reference).unwrap().as_str(),
            wanted,
            "{reference}"
        );
    }
    for reference in [
        "ftp://a/",
        "javascript:alert(1)",
        "//",
        "a\nb",
        "http://a:0/",
    ] {
        assert!(base.join(reference).is_err(), "{reference}");
    }
    assert!(base.has_origin_of(&target("https://a:443/")));
    for other in ["http://a/", "https://a:444/", "https://b/", "https://a.b/"] {
        assert!(!base.has_origin_of(&target(other)), "{other}");
    }
}

#[test]
fn a_user_becomes_a_header_and_leaves_the_url() {
    let request = Request::get("http://me%40x:p%26q%20+@a/").unwrap();
    assert_eq!(request.target.as_str(), "http://a/");
    // me@x:p&q +
    assert_eq!(request.headers["authorization"], "Basic bWVAeDpwJnEgKw==");
    assert!(Request::get("http://a/").unwrap().headers.is_empty());
}

#[test]
fn headers_of_the_connection_and_bad_characters_are_refused() {
    let mut request = Request::get("http://a/").unwrap();
    request.add_header(b"X-A", b"1").unwrap();
    request.add_header(b"x-a", b"\xff").unwrap();
    request.add_header(b"Connection", b"Close").unwrap();
    assert_eq!(request.headers.get_all("x-a").iter().count(), 2);
    for (name, value) in [
        (&b"X A"[..], &b"1"[..]),
        (b"", b"1"),
        (b"X-A", b"1\r\nX-B: 2"),
        (b"X-A", b"1\n"),
        (b"X-A", b"\0"),
        (b"Connection", b"keep-alive"),
        (b"Content-Length", b"1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"TE", b"trailers"),
        (b"Upgrade", b"h2c"),
    ] {
        let error = request.add_header(name, value).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Argument, "{}", name.escape_ascii());
    }
}

#[test]
fn the_key_of_an_origin_tells_connections_apart() {
    let key = |text: &str, change: &dyn Fn(&mut Request)| {
        let mut request = Request::get(text).unwrap();
        change(&mut request);
        key_of(&request)
    };
    let same = |_: &mut Request| {};
    assert_eq!(key("http://a/x", &same), key("http://A:80/y?z", &same));
    let insecure = |request: &mut Request| request.sockets.tls.insecure = true;
    let ca = |request: &mut Request| request.sockets.tls.ca = Some("ca".to_owned());
    let socket = |request: &mut Request| request.socket = Some("/s".to_owned());
    let mut keys = vec![
        key("http://a/", &same),
        key("http://a:81/", &same),
        key("http://b/", &same),
        key("https://a/", &same),
        key("https://a/", &insecure),
        key("https://a/", &ca),
        key("http://a/", &socket),
    ];
    let count = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), count);
    // Without TLS its options change nothing.
    assert_eq!(key("http://a/", &insecure), key("http://a/", &same));
}
