//! Checks who may see the page and call through it.
//!
//! ```text
//!   /_yue?key=…   ── the key that was printed ──▶ a cookie, and a redirect to the address without the key
//!   any other     ── the cookie
//!   a POST        ── the cookie, this page's origin, and the token that only a page served for that cookie has
//! ```
//!
//! A page elsewhere can make a browser send requests here. It has no cookie: `SameSite=Strict`. It cannot read answers,
//! frame the page, or forge a POST. A name of its own that resolves to this machine (DNS rebinding) is refused by the
//! header `Host`: only numeric addresses and `localhost` are this server's names.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Write;
use std::io;
use std::net::{IpAddr, SocketAddr};
use subtle::ConstantTimeEq;
use yue_rpc::transport::HttpHead;

/// Browsers that have the page open; a new one replaces the oldest.
const VISITS_MAX: usize = 32;

/// The header with the token of a request that may change something.
const TOKEN_HEADER: &str = "x-yue-token";

const NO_KEY: &str = "This page needs its key. Open the address that the program printed when it started, \
                      http://…/_yue?key=…, in this browser. If you have just done so by a link on another page, \
                      reload this one.";
const WRONG_KEY: &str = "This is not the key of this program. Each start of a program has a new key: open the address \
                         that it printed when it started.";
const WRONG_HOST: &str = "This name is not known to be this server's. Open the page by a numeric address or localhost, \
                          as the program printed it.";
const WRONG_ORIGIN: &str = "Another page made this request. Only the page of this server may.";
const NO_TOKEN: &str = "The request has no valid token. Reload the page.";

/// An answer to a request that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn new(status: u16, text: &str) -> Refusal {
        Refusal {
            status,
            text: text.to_owned(),
        }
    }
}

/// A browser that has shown the key.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    cookie: String,
    pub(super) token: String,
}

pub(super) struct Guard {
    key: String,
    at: SocketAddr,
    port: Cell<u16>,
    visits: RefCell<VecDeque<Visit>>,
}

/// 128 random bits as text.
fn random() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    let mut text = String::new();
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// Compares secrets in a time that does not tell how much of them is right.
fn same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

/// The values of a header.
fn values<'a>(head: &'a HttpHead, name: &str) -> Vec<&'a [u8]> {
    let all = head.headers().filter(|(known, _)| *known == name);
    all.map(|(_, value)| value).collect()
}

/// The only value of a header.
fn single<'a>(head: &'a HttpHead, name: &str) -> Result<Option<&'a str>, Refusal> {
    let bad = || Refusal::new(400, "A header comes twice, or is not text.");
    match values(head, name)[..] {
        [] => Ok(None),
        [value] => str::from_utf8(value).map(Some).map_err(|_| bad()),
        _ => Err(bad()),
    }
}

/// The key in the address of a first visit.
pub(super) fn key_in(query: Option<&str>) -> Option<&str> {
    query?.split('&').find_map(|pair| pair.strip_prefix("key="))
}

impl Guard {
    pub(super) fn new(at: SocketAddr) -> io::Result<Guard> {
        Ok(Guard {
            key: random()?,
            at,
            port: Cell::new(at.port()),
            visits: RefCell::default(),
        })
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Sets the port, once it is bound.
    pub(super) fn set_port(&self, port: u16) {
        self.port.set(port);
    }

    /// Cookies are shared by all ports of a host, so each port has its own name.
    fn cookie_name(&self) -> String {
        format!("yue-page-{}", self.port.get())
    }

    /// Checks the headers by which a browser says for whom, and for which page, a request is.
    pub(super) fn check_caller(&self, head: &HttpHead) -> Result<(), Refusal> {
        let host = single(head, "host")?.ok_or_else(|| Refusal::new(403, WRONG_HOST))?;
        if !self.is_here(host) {
            return Err(Refusal::new(403, WRONG_HOST));
        }
        let origin = single(head, "origin")?;
        if origin.is_some_and(|origin| !is_of_host(origin, host)) {
            return Err(Refusal::new(403, WRONG_ORIGIN));
        }
        Ok(())
    }

    /// Whether the authority of a request is a name of this server.
    fn is_here(&self, host: &str) -> bool {
        let port = self.port.get();
        if let Ok(address) = host.parse::<SocketAddr>() {
            let ip = address.ip();
            // A server that listens everywhere does not know its addresses.
            let is_own = ip == self.at.ip() || self.at.ip().is_unspecified();
            return address.port() == port && (is_own || ip.is_loopback());
        }
        if port == 80 && host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
            return true;
        }
        let (name, named_port) = host.rsplit_once(':').unwrap_or((host, "80"));
        name.eq_ignore_ascii_case("localhost") && named_port == port.to_string()
    }

    /// Exchanges the key for a cookie: the value of `Set-Cookie`.
    pub(super) fn admit(&self, key: &str) -> Result<String, Refusal> {
        if !same(key, &self.key) {
            return Err(Refusal::new(403, WRONG_KEY));
        }
        let fault = |error: io::Error| Refusal::new(500, &error.to_string());
        let visit = Visit {
            cookie: random().map_err(fault)?,
            token: random().map_err(fault)?,
        };
        let cookie = format!(
            "{}={}; Path={}; HttpOnly; SameSite=Strict",
            self.cookie_name(),
            visit.cookie,
            super::PATH
        );
        let mut visits = self.visits.borrow_mut();
        if visits.len() == VISITS_MAX {
            visits.pop_front();
        }
        visits.push_back(visit);
        Ok(cookie)
    }

    /// Finds the visit that the request's cookie belongs to.
    pub(super) fn visit(&self, head: &HttpHead) -> Result<Visit, Refusal> {
        let name = self.cookie_name();
        let visits = self.visits.borrow();
        for header in values(head, "cookie") {
            let text = str::from_utf8(header).unwrap_or_default();
            for pair in text.split(';') {
                let value = pair.trim().split_once('=');
                let Some((_, value)) = value.filter(|(known, _)| *known == name) else {
                    continue;
                };
                // All are compared, whichever is right.
                let mut found = None;
                for visit in visits.iter() {
                    if same(&visit.cookie, value) {
                        found = Some(visit.clone());
                    }
                }
                if let Some(visit) = found {
                    return Ok(visit);
                }
            }
        }
        Err(Refusal::new(403, NO_KEY))
    }
}

/// Whether the origin of a page is the server itself.
fn is_of_host(origin: &str, host: &str) -> bool {
    let authority = origin.strip_prefix("http://");
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// Checks a request that may change something: a browser names the page's origin, and the page has the token.
pub(super) fn check_change(head: &HttpHead, visit: &Visit) -> Result<(), Refusal> {
    if single(head, "origin")?.is_none() {
        return Err(Refusal::new(403, WRONG_ORIGIN));
    }
    let token = single(head, TOKEN_HEADER)?.unwrap_or_default();
    match same(token, &visit.token) {
        true => Ok(()),
        false => Err(Refusal::new(403, NO_TOKEN)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(at: &str) -> Guard {
        Guard::new(at.parse().expect("an address")).expect("random numbers")
    }

    #[test]
    fn only_numeric_addresses_and_localhost_are_here() {
        let own = guard("127.0.0.1:8081");
        for host in [
            "127.0.0.1:8081",
            "localhost:8081",
            "LOCALHOST:8081",
            "[::1]:8081",
        ] {
            assert!(own.is_here(host), "{host}");
        }
        for host in [
            "127.0.0.1",
            "127.0.0.1:8082",
            "evil.example:8081",
            "localhost",
            "localhost.evil.example:8081",
            "",
            "192.168.1.5:8081",
            "[::1]",
            ":8081",
        ] {
            assert!(!own.is_here(host), "{host}");
        }
        assert!(guard("0.0.0.0:8081").is_here("192.168.1.5:8081"));
        assert!(!guard("0.0.0.0:8081").is_here("evil.example:8081"));
        assert!(guard("127.0.0.1:80").is_here("localhost"));
        assert!(guard("127.0.0.1:80").is_here("127.0.0.1"));
    }

    #[test]
    fn the_origin_is_that_of_the_host() {
        assert!(is_of_host("http://127.0.0.1:8081", "127.0.0.1:8081"));
        for origin in [
            "https://127.0.0.1:8081",
            "http://127.0.0.1:8082",
            "null",
            "http://evil.example",
        ] {
            assert!(!is_of_host(origin, "127.0.0.1:8081"), "{origin}");
        }
    }

    #[test]
    fn the_key_is_read_and_compared_whole() {
        assert_eq!(key_in(Some("a=b&key=12")), Some("12"));
        assert_eq!(key_in(Some("nokey=12")), None);
        let guard = guard("127.0.0.1:8081");
        let key = guard.key().to_owned();
        assert_eq!(key.len(), 32);
        for wrong in [
            "",
            &key[..31],
            &format!("{key}0"),
            &key.to_uppercase().replace('0', "O"),
        ] {
            assert_eq!(
                guard.admit(wrong).map_err(|refusal| refusal.status),
                Err(403),
                "{wrong}"
            );
        }
        let cookie = guard.admit(&key).expect("it is the key");
        assert!(cookie.starts_with("yue-page-8081="));
        assert!(cookie.ends_with("; Path=/_yue; HttpOnly; SameSite=Strict"));
        assert_ne!(cookie, guard.admit(&key).expect("it is the key"));
    }

    #[test]
    fn the_number_of_visits_is_limited() {
        let guard = guard("127.0.0.1:8081");
        let key = guard.key().to_owned();
        for _ in 0..VISITS_MAX + 10 {
            guard.admit(&key).expect("it is the key");
        }
        assert_eq!(guard.visits.borrow().len(), VISITS_MAX);
    }
}
