//! Requests to HTTP servers: the natives under `yue.http.get` and its siblings.
//!
//! A client and an exchange belong to their loop; Lua knows them by numbers. The prelude checks options, follows
//! redirects and calls the functions that provide bodies: no Lua runs inside a native here.

use crate::lua::host::errors::{error, rpc_error};
use crate::lua::host::handles::Handles;
use crate::lua::native::{Results, native, register, seconds};
use crate::lua::rpc::options::{Certificates, Settings};
use std::cell::RefCell;
use std::ffi::c_int;
use std::rc::Rc;
use yue_luajit::{Error, Stack, ffi};
use yue_rpc::ErrorKind;
use yue_rpc::http::client::{
    Bytes, Client, ClientOptions, Closer, Event, Exchange, Head, HeaderMap, Method, Payload,
    Request, Target, Version,
};
use yue_rpc::transport::SocketOptions;

thread_local! {
    static CLIENTS: Handles<Client> = Handles::default();
    static EXCHANGES: Handles<Running> = Handles::default();
}

/// An exchange that Lua holds. One fiber at a time waits in it; another one may close it.
struct Running {
    exchange: RefCell<Exchange>,
    closer: Closer,
}

/// Drops this room's state at the end of the loop.
pub(super) fn clear() {
    EXCHANGES.with(Handles::clear);
    CLIENTS.with(Handles::clear);
}

// -- Arguments --------------------------------------------------------------------------------------------------------

/// A request, as the prelude passes it.
#[derive(Clone, Copy)]
pub(crate) struct Spec<'a> {
    client: f64,
    method: &'a [u8],
    url: &'a [u8],
    /// Names and values, each with a zero byte at its end.
    headers: &'a [u8],
    /// `None`: it comes in pieces.
    body: Option<&'a [u8]>,
    socket: Option<&'a [u8]>,
    tls: Option<(Settings, Certificates<'a>)>,
}

impl<'a> Spec<'a> {
    /// Reads the first seven arguments. May raise.
    fn read(stack: Stack<'a>) -> Spec<'a> {
        let optional = |index: c_int| match stack.kind(index) {
            ffi::LUA_TSTRING => Some(stack.bytes(index)),
            _ => None,
        };
        // SAFETY: Lua runs the calling C function on this state; the texts stay on its stack until it returns.
        let tls = (stack.kind(7) == ffi::LUA_TTABLE).then(|| unsafe {
            stack.reserve(10);
            (
                Settings::read(stack.raw(), 7),
                Certificates::read(stack.raw(), 7),
            )
        });
        Spec {
            client: stack.number(1),
            method: stack.bytes(2),
            url: stack.bytes(3),
            headers: stack.bytes(4),
            body: optional(5),
            socket: optional(6),
            tls,
        }
    }

    fn request(&self) -> Result<Request, Error> {
        let method = Method::from_bytes(self.method).map_err(|_| {
            let shown = String::from_utf8_lossy(self.method);
            error(
                ErrorKind::Argument,
                format!("{shown:?} is not a method of HTTP"),
            )
        })?;
        let mut request = Request::new(method, target(self.url)?);
        let mut parts = self.headers.split(|byte| *byte == 0);
        while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            request
                .add_header(name, value)
                .map_err(|fault| rpc_error(&fault))?;
        }
        request.payload = match self.body {
            Some(body) => Payload::Whole(Bytes::copy_from_slice(body)),
            None => Payload::Pieces,
        };
        request.socket = self
            .socket
            .map(|path| String::from_utf8_lossy(path).into_owned());
        request.sockets = match self.tls {
            Some((settings, certificates)) => settings.sockets(certificates),
            None => SocketOptions::default(),
        };
        Ok(request)
    }

    /// Connects and begins to send.
    fn send(&self) -> Result<Exchange, Error> {
        let client = CLIENTS.with(|clients| clients.find(self.client));
        let client = client.ok_or_else(ended)?;
        let request = self.request()?;
        client.send(request).map_err(|fault| rpc_error(&fault))
    }
}

fn target(url: &[u8]) -> Result<Target, Error> {
    Target::parse(&String::from_utf8_lossy(url)).map_err(|fault| rpc_error(&fault))
}

fn ended() -> Error {
    error(
        ErrorKind::Runtime,
        "the HTTP client belongs to a program that has ended",
    )
}

/// Runs `work` with an exchange.
fn with_exchange<R>(
    number: f64,
    work: impl FnOnce(&mut Exchange) -> Result<R, yue_rpc::Error>,
) -> Result<R, Error> {
    let Some(running) = EXCHANGES.with(|exchanges| exchanges.find(number)) else {
        return Err(error(
            ErrorKind::ConnectionLost,
            "the answer was closed: nothing more can be read from it",
        ));
    };
    let Ok(mut exchange) = running.exchange.try_borrow_mut() else {
        let text = "another fiber waits for this answer; one at a time can read it";
        return Err(error(ErrorKind::Runtime, text));
    };
    work(&mut exchange).map_err(|fault| rpc_error(&fault))
}

// -- Results ----------------------------------------------------------------------------------------------------------

/// Status, reason, version and headers of an answer.
pub(crate) struct Answer(Head);

fn version_text(version: Version) -> &'static [u8] {
    match version {
        Version::HTTP_09 => b"0.9",
        Version::HTTP_10 => b"1.0",
        _ => b"1.1",
    }
}

impl Results for Answer {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        stack.reserve(8);
        stack.push_number(f64::from(self.0.status));
        stack.push_bytes(self.0.reason.as_bytes());
        stack.push_bytes(version_text(self.0.version));
        push_headers(&self.0.headers, stack);
        4
    }
}

/// The header of which each value is kept for itself: it may contain commas (RFC 6265, section 3).
const SET_COOKIE: &str = "set-cookie";

/// Pushes a table of values by names in lower case. Values of one name are joined, but for [`SET_COOKIE`], which is a
/// list. May raise.
fn push_headers(headers: &HeaderMap, stack: Stack<'_>) {
    let state = stack.raw();
    // SAFETY: stage 3, where Lua errors may be raised; the caller has reserved room. Nothing here has a destructor.
    unsafe {
        ffi::lua_createtable(
            state,
            0,
            c_int::try_from(headers.keys_len()).unwrap_or(c_int::MAX),
        );
        for name in headers.keys() {
            let is_list = name == SET_COOKIE;
            stack.push_bytes(name.as_str().as_bytes());
            if is_list {
                ffi::lua_createtable(state, 1, 0);
            }
            for (index, value) in headers.get_all(name).iter().enumerate() {
                if !is_list && index > 0 {
                    stack.push_bytes(b", ");
                }
                stack.push_bytes(value.as_bytes());
                if is_list {
                    ffi::lua_rawseti(state, -2, index as i64 + 1);
                } else if index > 0 {
                    ffi::lua_concat(state, 3);
                }
            }
            ffi::lua_rawset(state, -3);
        }
    }
}

/// The next step of an exchange: a word, and what belongs to it.
pub(crate) struct Step(Event);

impl Results for Step {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        stack.reserve(2);
        match &mut self.0 {
            Event::NeedsBody => {
                stack.push_bytes(b"body");
                1
            }
            Event::Head(head) => {
                stack.push_bytes(b"head");
                let empty = Head {
                    status: 0,
                    reason: String::new(),
                    version: Version::HTTP_11,
                    headers: HeaderMap::new(),
                };
                1 + Answer(std::mem::replace(head, empty)).push(stack)
            }
            Event::Data(piece) => {
                stack.push_bytes(b"data");
                stack.push_bytes(piece);
                2
            }
            Event::End => {
                stack.push_bytes(b"end");
                1
            }
        }
    }
}

/// A whole answer.
pub(crate) struct Fetched {
    head: Answer,
    url: String,
    body: Vec<u8>,
}

impl Results for Fetched {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        self.head.push(stack)
            + Results::push(&mut self.url, stack)
            + Results::push(&mut self.body, stack)
    }
}

// -- Natives ----------------------------------------------------------------------------------------------------------

native! {
    /// `http_client(idle_max, idle_seconds)`: the number of a client.
    HttpClient = "http_client", suspends: false;
    read(stack) -> (f64, f64) { (stack.number(1), stack.number(2)) }
    run((idle_max, idle_time)) -> f64 {
        let options = ClientOptions { idle_max: idle_max as usize, idle_time: seconds(idle_time) };
        Ok(CLIENTS.with(|clients| clients.add(Client::new(options))))
    }
}

native! {
    /// Closes the idle connections of a client.
    HttpCloseIdle = "http_close_idle", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        if let Some(client) = CLIENTS.with(|clients| clients.find(number)) {
            client.close_idle();
        }
        Ok(())
    }
}

native! {
    /// Closes the idle connections of a client, and forgets it.
    HttpForget = "http_forget", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        let client = CLIENTS.with(|clients| clients.remove(number));
        drop(client);
        Ok(())
    }
}

native! {
    /// The number of idle connections of a client.
    HttpIdle = "http_idle", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> f64 {
        let client = CLIENTS.with(|clients| clients.find(number));
        Ok(client.map_or(0.0, |client| client.idle_connections() as f64))
    }
}

native! {
    /// `http_url(text)`: the URL without user and fragment, the user and the password, of which both may be nil.
    HttpUrl = "http_url", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(text) -> (String, (Option<String>, Option<String>)) {
        let mut target = target(text)?;
        let user = target.take_user();
        Ok((target.as_str().to_owned(), user.unzip()))
    }
}

native! {
    /// `http_join(base, reference)`: the URL that the reference means there, whether it has the same origin, and
    /// whether it begins with `https://`.
    HttpJoin = "http_join", suspends: false;
    read(stack) -> (&'a [u8], &'a [u8]) { (stack.bytes(1), stack.bytes(2)) }
    run((base, reference)) -> (String, (bool, bool)) {
        let base = target(base)?;
        let mut there = base.join(&String::from_utf8_lossy(reference)).map_err(|fault| rpc_error(&fault))?;
        // A server must not choose the user of the next request.
        there.take_user();
        Ok((there.as_str().to_owned(), (there.has_origin_of(&base), there.is_secure())))
    }
}

native! {
    /// `http_fetch(client, method, url, headers, body, socket, tls, body_max)`: status, reason, version, headers, URL
    /// and body of the answer.
    HttpFetch = "http_fetch", suspends: true;
    read(stack) -> (Spec<'a>, f64) {
        let body_max = stack.number(8);
        (Spec::read(stack), body_max)
    }
    run((spec, body_max)) -> Fetched {
        let mut exchange = spec.send()?;
        let head = exchange.head().map_err(|fault| rpc_error(&fault))?;
        let body = exchange.read_to_end(body_max as usize).map_err(|fault| rpc_error(&fault))?;
        Ok(Fetched { head: Answer(head), url: exchange.target().to_string(), body })
    }
}

native! {
    /// `http_start(client, method, url, headers, body, socket, tls)`: the number of an exchange, and the URL. The body
    /// may be nil: it comes in pieces.
    HttpStart = "http_start", suspends: true;
    read(stack) -> Spec<'a> { Spec::read(stack) }
    run(spec) -> (f64, String) {
        let exchange = spec.send()?;
        let url = exchange.target().to_string();
        let running = Running { closer: exchange.closer(), exchange: RefCell::new(exchange) };
        Ok((EXCHANGES.with(|exchanges| exchanges.add(running)), url))
    }
}

native! {
    /// The next step of an exchange: `'body'`; `'head'`, status, reason, version, headers; `'data'`, bytes; `'end'`.
    HttpAdvance = "http_advance", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> Step { with_exchange(number, Exchange::advance).map(Step) }
}

native! {
    /// `http_feed(exchange, piece)`: the next piece of the request's body; nil is its end.
    HttpFeed = "http_feed", suspends: false;
    read(stack) -> (f64, Option<&'a [u8]>) {
        let piece = if stack.is_none_or_nil(2) { None } else { Some(stack.bytes(2)) };
        (stack.number(1), piece)
    }
    run((number, piece)) -> () {
        with_exchange(number, |exchange| {
            exchange.feed(piece.map(Bytes::copy_from_slice));
            Ok(())
        })
    }
}

native! {
    /// Sends no more of the request's body.
    HttpStopFeeding = "http_stop_feeding", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        with_exchange(number, |exchange| {
            exchange.stop_feeding();
            Ok(())
        })
    }
}

native! {
    /// `http_rest(exchange, body_max)`: the rest of the answer's body.
    HttpRest = "http_rest", suspends: true;
    read(stack) -> (f64, f64) { (stack.number(1), stack.number(2)) }
    run((number, body_max)) -> Vec<u8> {
        with_exchange(number, |exchange| exchange.read_to_end(body_max as usize))
    }
}

native! {
    /// Forgets an exchange. Its connection is closed, unless the answer has ended.
    HttpClose = "http_close", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        let running: Option<Rc<Running>> = EXCHANGES.with(|exchanges| exchanges.remove(number));
        if let Some(running) = running
            && let Err(_) = running.exchange.try_borrow_mut().map(|mut exchange| exchange.close())
        {
            // A fiber waits in it, and gets an error.
            running.closer.close();
        }
        Ok(())
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(
        stack; HttpClient, HttpCloseIdle, HttpForget, HttpIdle, HttpUrl, HttpJoin, HttpFetch, HttpStart, HttpAdvance,
        HttpFeed, HttpStopFeeding, HttpRest, HttpClose,
    );
}
