//! The page of the running program: `/_yue` of an HTTP listener that the endpoint's thread serves, so that it works
//! while the program's loops are held.
//!
//! ```text
//!   browser ──▶ Guard: host, origin, cookie, token ──▶ assets: index.html, page.css, page.js, icon.svg
//!                                                  ├──▶ state ──▶ the endpoint's own methods, by its socket
//!                                                  └──▶ describe, call ──▶ a connection to one of the listeners
//! ```
//!
//! `guard.rs` decides who may see the page, `requests.rs` answers the page's own requests.

mod guard;
mod requests;

use self::guard::{Guard, Refusal, Visit};
use self::requests::{Reply, Requests};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use yue_rpc::session::Service;
use yue_rpc::transport::{
    HttpAnswer, HttpConnection, HttpHead, HttpLimits, HttpOptions, Serve, SocketOptions,
};
use yue_rpc::{Address, Listener};
use yue_scheduler::{LogLevel, log};

/// The path of the page. Everything else of the page is below it.
const PATH: &str = "/_yue";

const INDEX: &str = include_str!("index.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const ICON: &str = include_str!("icon.svg");

/// The place of the token in `index.html`.
const TOKEN: &str = "{{token}}";

/// The longest body of a request: the arguments of a call.
const BODY_MAX: usize = 1 << 20;

/// The port serves few connections at a time, so one without a whole request ends soon. The page asks every two
/// seconds, over a connection that it keeps.
const SILENCE_MAX: Duration = Duration::from_secs(5);

const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Sent with each answer. Nothing but the page's own files may run or load, and no other page may frame it.
const HEADERS: [(&str, &str); 7] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-frame-options", "DENY"),
    ("x-content-type-options", "nosniff"),
    ("cache-control", "no-store"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
];

/// The address of the page that `text` means: `HOST:PORT`, or a port of the loopback address. An empty text, `1`, `on`,
/// `yes` and `true` mean a free port there.
///
/// ```
/// use yue::admin::page_address;
///
/// assert_eq!(page_address("8081")?.to_string(), "127.0.0.1:8081");
/// assert_eq!(page_address("on")?.to_string(), "127.0.0.1:0");
/// assert_eq!(page_address("0.0.0.0:8081")?.to_string(), "0.0.0.0:8081");
/// assert!(page_address("somewhere").is_err());
/// # Ok::<(), String>(())
/// ```
///
/// # Errors
/// A text that says what is needed.
pub fn page_address(text: &str) -> Result<SocketAddr, String> {
    let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    match text {
        "" | "1" | "on" | "yes" | "true" => return Ok(loopback(0)),
        _ => {}
    }
    let text = text.replacen("localhost:", "127.0.0.1:", 1);
    let text = text.strip_prefix(':').unwrap_or(&text);
    text.parse::<u16>()
        .map(loopback)
        .or_else(|_| text.parse::<SocketAddr>())
        .map_err(|_| "a port is needed, or an address and a port: 8081, 127.0.0.1:8081".to_owned())
}

/// Serves the page on the calling loop, and prints its address with the key to standard error.
///
/// # Errors
/// If the address cannot be bound, or the system has no random numbers.
pub(super) fn listen(
    at: SocketAddr,
    endpoint: &str,
    options: yue_rpc::Options,
) -> io::Result<Listener> {
    let text = |error: yue_rpc::Error| io::Error::other(error.to_string());
    let address: Address = format!("tcp://{at}").parse().map_err(io::Error::other)?;
    let page = Rc::new(Page {
        guard: Guard::new(at)?,
        requests: Requests::new(endpoint),
    });
    let limits = HttpLimits {
        head: SILENCE_MAX,
        idle: SILENCE_MAX,
        body: SILENCE_MAX,
        ..HttpLimits::default()
    };
    let http = HttpOptions::new().serve(page.clone(), limits);
    let sockets = SocketOptions {
        http: Some(http),
        ..SocketOptions::default()
    };
    let listener =
        Listener::bind_with(&address, Service::none(), options, &sockets).map_err(text)?;
    let port = match listener.address().host_and_port() {
        Some((_, port)) => port,
        None => at.port(),
    };
    page.guard.set_port(port);
    if !at.ip().is_loopback() {
        log(
            LogLevel::Warn,
            format_args!(
                "the page listens at {}: whoever can read the network between here and a browser can read its key, \
                 and call all functions",
                at.ip()
            ),
        );
    }
    let host = match at.ip() {
        ip if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
        ip => SocketAddr::new(ip, port),
    };
    // Not through the log, which may be kept, filtered, or read by others.
    let _ = writeln!(
        io::stderr(),
        "page of this program: http://{host}{PATH}?key={}",
        page.guard.key()
    );
    Ok(listener)
}

struct Page {
    guard: Guard,
    requests: Requests,
}

impl Serve for Page {
    fn serve(&self, connection: &Rc<HttpConnection>) {
        while let Ok(Some(head)) = connection.next_request() {
            let reply = self.respond(&head, connection).unwrap_or_else(Reply::from);
            let answer = reply.into_answer(head.method() == "HEAD");
            match answer {
                Ok(answer) => connection.answer(answer),
                // The connection answers with 500.
                Err(fault) => log(LogLevel::Warn, format_args!("the page: {fault}")),
            }
        }
    }
}

impl Page {
    fn respond(&self, head: &HttpHead, connection: &HttpConnection) -> Result<Reply, Refusal> {
        head.check()
            .map_err(|(status, text)| Refusal::new(status, text))?;
        self.guard.check_caller(head)?;
        let path = head.path();
        let below = match path.strip_prefix(PATH) {
            Some(below) if below.is_empty() || below.starts_with('/') => below,
            _ => {
                return Err(Refusal::new(
                    404,
                    "There is nothing here. The page is at /_yue.",
                ));
            }
        };
        if below.is_empty()
            && let Some(key) = guard::key_in(head.query())
        {
            check_method(head, &["GET"])?;
            let cookie = self.guard.admit(key)?;
            return Ok(Reply::redirect(PATH, &cookie));
        }
        let visit = self.guard.visit(head)?;
        match below {
            "" | "/" => self.asset(head, HTML, &INDEX.replace(TOKEN, &visit.token)),
            "/page.css" => self.asset(head, "text/css; charset=utf-8", STYLE),
            "/page.js" => self.asset(head, "text/javascript; charset=utf-8", SCRIPT),
            "/icon.svg" => self.asset(head, "image/svg+xml", ICON),
            "/api/state" => {
                check_method(head, &["GET"])?;
                Ok(self.requests.state())
            }
            "/api/describe" => {
                let body = self.body_of(head, connection, &visit)?;
                Ok(self.requests.describe(&body))
            }
            "/api/call" => {
                let body = self.body_of(head, connection, &visit)?;
                Ok(self.requests.call(&body))
            }
            _ => Err(Refusal::new(
                404,
                "There is nothing here. The page is at /_yue.",
            )),
        }
    }

    fn asset(&self, head: &HttpHead, kind: &'static str, text: &str) -> Result<Reply, Refusal> {
        check_method(head, &["GET", "HEAD"])?;
        Ok(Reply::new(200, kind, text.to_owned()))
    }

    /// Reads the body of a request that may change something.
    fn body_of(
        &self,
        head: &HttpHead,
        connection: &HttpConnection,
        visit: &Visit,
    ) -> Result<Vec<u8>, Refusal> {
        check_method(head, &["POST"])?;
        guard::check_change(head, visit)?;
        let mut body = Vec::new();
        loop {
            match connection.read_body() {
                Ok(None) => return Ok(body),
                Ok(Some(piece)) if body.len() + piece.len() <= BODY_MAX => {
                    body.extend_from_slice(&piece);
                }
                Ok(Some(_)) => {
                    return Err(Refusal::new(413, "The body is longer than 1 MiB."));
                }
                Err(fault) => return Err(Refusal::new(400, &fault.to_string())),
            }
        }
    }
}

fn check_method(head: &HttpHead, methods: &[&str]) -> Result<(), Refusal> {
    match methods.contains(&head.method()) {
        true => Ok(()),
        false => Err(Refusal::new(405, "This address does not take that method.")),
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Reply {
        let mut reply = Reply::new(refusal.status, TEXT, refusal.text + "\n");
        reply.closes = true;
        reply
    }
}

impl Reply {
    fn redirect(to: &str, cookie: &str) -> Reply {
        let mut reply = Reply::new(303, TEXT, String::new());
        reply.headers = vec![
            ("location", to.to_owned()),
            ("set-cookie", cookie.to_owned()),
        ];
        reply
    }

    fn into_answer(self, to_head: bool) -> Result<HttpAnswer, yue_rpc::transport::AnswerFault> {
        let mut answer = HttpAnswer::new(self.status)?;
        answer.header(b"content-type", self.kind.as_bytes())?;
        for (name, value) in HEADERS {
            answer.header(name.as_bytes(), value.as_bytes())?;
        }
        for (name, value) in &self.headers {
            answer.header(name.as_bytes(), value.as_bytes())?;
        }
        if self.closes {
            answer.close();
        }
        answer.whole(self.body.into_bytes().into(), to_head)?;
        Ok(answer)
    }
}
