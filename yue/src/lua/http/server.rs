//! Listeners whose requests Lua answers: the natives behind `yue.http.serve` and its requests.
//!
//! Each connection has a fiber, which runs one call of the prelude's `serve_http` from the first request to the last:
//! no fiber, and no call into Lua, is made for a request. Lua knows a connection by a number, and reads of the present
//! request what it needs.

use crate::lua::fibers::end_record;
use crate::lua::host::entries::Entry;
use crate::lua::host::errors::{describe_failure, error, rpc_error, stopped};
use crate::lua::host::{self, Hold, log, with_host};
use crate::lua::native::{Results, native, register, register_raw, seconds};
use crate::lua::number_hash::NumberHash;
use crate::lua::rpc::endpoints::{self, Endpoint};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::rc::Rc;
use yue_luajit::{Error, Stack, ffi, raise, suspending};
use yue_rpc::session::{Service, note_change};
use yue_rpc::transport::{
    Bytes, HttpAnswer, HttpConnection, HttpFault, HttpHead, HttpLimits, HttpOptions, Serve,
};
use yue_rpc::{ErrorKind, Listener};
use yue_scheduler::LogLevel;
use yue_scheduler::simulation::Hashing;

/// A listener.
struct Serving {
    listener: Listener,
    _hold: Hold,
}

/// A connection, and the head of its present request.
pub(super) struct Open {
    pub(super) connection: Rc<HttpConnection>,
    head: RefCell<Option<Rc<HttpHead>>>,
}

impl Open {
    /// The head of the present request.
    pub(super) fn head(&self) -> Option<Rc<HttpHead>> {
        self.head.borrow().clone()
    }

    /// Whether the present request wants no body.
    pub(super) fn is_head_only(&self) -> bool {
        self.head().is_some_and(|head| head.method() == "HEAD")
    }
}

thread_local! {
    static LAST_NUMBER: Cell<u32> = const { Cell::new(0) };
    static LISTENERS: RefCell<HashMap<u32, Serving, Hashing>> = RefCell::default();
    static CONNECTIONS: RefCell<HashMap<u32, Rc<Open>, NumberHash>> = RefCell::default();
}

fn next_number() -> u32 {
    let number = LAST_NUMBER.get().wrapping_add(1);
    LAST_NUMBER.set(number);
    number
}

/// Drops this room's state at the end of the loop.
pub(super) fn clear() {
    let listeners = LISTENERS.take();
    drop(listeners);
    let connections = CONNECTIONS.take();
    drop(connections);
}

/// Stops listening, at the end of the program. Idle connections end now, the others after their request.
pub(super) fn stop_listening() {
    let serving = LISTENERS.take();
    for serving in serving.values() {
        serving.listener.close();
        serving.listener.close_connections();
    }
}

/// The number of connections whose requests are served, also of closed listeners.
pub(super) fn open_connections() -> usize {
    CONNECTIONS.with_borrow(|all| all.len())
}

/// The connection with that number.
///
/// # Errors
/// It has ended.
pub(super) fn find(number: f64) -> Result<Rc<Open>, Error> {
    let found = CONNECTIONS.with_borrow(|all| all.get(&(number as u32)).cloned());
    found.ok_or_else(|| lost(&HttpFault::Lost))
}

/// An error for a connection that cannot be used any more.
pub(super) fn lost(fault: &HttpFault) -> Error {
    match fault {
        HttpFault::Stopped(reason) => stopped(*reason),
        HttpFault::Busy | HttpFault::TooLong => error(ErrorKind::Runtime, fault.to_string()),
        _ => error(ErrorKind::ConnectionLost, fault.to_string()),
    }
}

/// Serves the connections of one listener.
struct LuaServer {
    listener: u32,
}

impl Serve for LuaServer {
    fn serve(&self, connection: &Rc<HttpConnection>) {
        let Some(host) = host::current() else { return };
        let mut thread = match host.vm.borrow_state() {
            Ok(thread) => thread,
            Err(fault) => {
                let text = || format!("an HTTP connection was dropped: {fault}");
                return log::write_limited(LogLevel::Error, text);
            }
        };
        let number = next_number();
        let open = Rc::new(Open {
            connection: connection.clone(),
            head: RefCell::default(),
        });
        CONNECTIONS.with_borrow_mut(|all| all.insert(number, open));
        let _forget = Forget(number);
        let (listener, peer) = (self.listener, connection.peer());
        thread.attach(|running| {
            running.working_on(b"http requests", peer, |running| {
                let outcome = running.enter(move |stack| {
                    // SAFETY: protected by `enter`; there is room for these few.
                    unsafe { Entry::ServeHttp.push(stack.raw()) };
                    stack.push_number(listener.into());
                    stack.push_number(number.into());
                    stack.push_bytes(peer.as_bytes());
                    true
                });
                if outcome.is_err() {
                    // Handlers' errors have been handled: the fiber was cancelled, or there is no memory.
                    let failure = describe_failure(running.state().raw());
                    if failure.type_name != ErrorKind::Cancelled.name() {
                        let facts = [("peer", peer)];
                        let what = "an HTTP connection failed";
                        log::write_failure_limited(LogLevel::Error, what, &facts, &failure);
                    }
                }
                end_record(running);
            });
        });
    }
}

struct Forget(u32);

impl Drop for Forget {
    fn drop(&mut self) {
        let open = CONNECTIONS.with_borrow_mut(|all| all.remove(&self.0));
        drop(open);
        note_change();
    }
}

/// `http_listen(address, options, limits…)`: returns the listener's number and its address. The limits are the fields
/// of [`HttpLimits`], in their order.
unsafe extern "C-unwind" fn listen_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        let limits = read_limits(Stack::new(state));
        let endpoint = Endpoint::read(state);
        let outcome = suspending(state, "http_listen", || {
            let number = next_number();
            let server = Rc::new(LuaServer { listener: number });
            let mut sockets = endpoint.sockets();
            sockets.http = Some(HttpOptions::new().serve(server, limits));
            let listener = endpoints::bind(&endpoint, Service::none(), sockets)?;
            let text = listener.address().to_string();
            let _hold = with_host(|host| host.hold())?;
            LISTENERS.with_borrow_mut(|all| all.insert(number, Serving { listener, _hold }));
            Ok((number, text))
        });
        match outcome {
            Ok((number, text)) => {
                let text = ManuallyDrop::new(text);
                let stack = Stack::new(state);
                stack.push_number(number.into());
                stack.push_bytes(text.as_bytes());
                drop(ManuallyDrop::into_inner(text));
                2
            }
            Err(failure) => raise(state, failure),
        }
    }
}

fn read_limits(stack: Stack<'_>) -> HttpLimits {
    HttpLimits {
        head_bytes_max: stack.number(3) as usize,
        headers_max: stack.number(4) as usize,
        head: seconds(stack.number(5)),
        idle: seconds(stack.number(6)),
        body: seconds(stack.number(7)),
        write: seconds(stack.number(8)),
    }
}

/// The address of the server with that number.
///
/// # Errors
/// It is closed.
#[cfg(feature = "ws")]
pub(crate) fn address_of(number: f64) -> Result<yue_rpc::Address, Error> {
    let address = LISTENERS.with_borrow(|all| {
        let serving = all.get(&(number as u32))?;
        Some(serving.listener.address().clone())
    });
    address.ok_or_else(|| error(ErrorKind::Runtime, "the HTTP server is closed"))
}

native! {
    /// Stops listening. Idle connections end now, the others after their request.
    HttpServerClose = "http_server_close", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        let serving = LISTENERS.with_borrow_mut(|all| all.remove(&(number as u32)));
        if let Some(serving) = serving {
            serving.listener.close();
            serving.listener.close_connections();
        }
        Ok(())
    }
}

native! {
    /// The number of a listener's connections, and of handshakes of TLS under way.
    HttpConnections = "http_connections", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> (f64, f64) {
        let usage = LISTENERS.with_borrow(|all| all.get(&(number as u32)).map(|serving| serving.listener.usage()));
        Ok(usage.map_or((0.0, 0.0), |usage| (usage.connections as f64, usage.handshakes as f64)))
    }
}

native! {
    /// Reads the certificate's files again.
    HttpReload = "http_reload", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        let listener =
            LISTENERS.with_borrow(|all| all.get(&(number as u32)).map(|serving| serving.listener.clone()));
        match listener.map(|listener| listener.reload()) {
            Some(Err(failure)) => Err(rpc_error(&failure)),
            _ => Ok(()),
        }
    }
}

// -- Requests -------------------------------------------------------------------------------------------------------

/// A request as Lua first sees it: method, path, query, minor version.
pub(crate) struct First(Rc<HttpHead>);

impl Results for First {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        let head = &self.0;
        stack.push_bytes(head.method().as_bytes());
        stack.push_bytes(head.path().as_bytes());
        match head.query() {
            Some(query) => stack.push_bytes(query.as_bytes()),
            None => stack.push_nil(),
        }
        stack.push_number(head.minor_version().into());
        4
    }
}

native! {
    /// `http_next(connection)`: waits for the next request. Nothing if the connection has ended.
    HttpNext = "http_next", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> Option<First> {
        let open = find(number)?;
        let last = open.head.take();
        if let Some(last) = last {
            open.connection.recycle(last);
        }
        loop {
            let Some(head) = open.connection.next_request()? else { return Ok(None) };
            if let Err((status, text)) = head.check() {
                open.connection.answer(refusal(status, text)?);
                continue;
            }
            *open.head.borrow_mut() = Some(head.clone());
            return Ok(Some(First(head)));
        }
    }
}

/// The answer to a request that no program sees. The connection ends.
fn refusal(status: u16, text: &str) -> Result<HttpAnswer, Error> {
    let broken = |fault| error(ErrorKind::Server, format!("{fault}"));
    let mut answer = HttpAnswer::new(status).map_err(broken)?;
    answer.default_type("text/plain; charset=utf-8");
    answer.close();
    let body = Bytes::from(format!("{text}\n"));
    answer.whole(body, false).map_err(broken)?;
    Ok(answer)
}

/// The headers as a table: of values of one name a list with commas (RFC 9110, section 5.3).
pub(crate) struct Headers(Option<Rc<HttpHead>>);

impl Results for Headers {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        let state = stack.raw();
        stack.reserve(6);
        // SAFETY: stage 3, where Lua errors may be raised; there is room.
        unsafe {
            ffi::lua_createtable(state, 0, 8);
            let Some(head) = &self.0 else { return 1 };
            for (name, value) in head.headers() {
                stack.push_bytes(name.as_bytes());
                stack.push_bytes(name.as_bytes());
                ffi::lua_rawget(state, -3);
                if ffi::lua_type(state, -1) == ffi::LUA_TSTRING {
                    stack.push_bytes(separator(name));
                    stack.push_bytes(value);
                    ffi::lua_concat(state, 3);
                } else {
                    ffi::lua_settop(state, -2);
                    stack.push_bytes(value);
                }
                ffi::lua_rawset(state, -3);
            }
        }
        1
    }
}

/// Cookies are separated by semicolons (RFC 6265, section 4.2.1).
fn separator(name: &str) -> &'static [u8] {
    match name {
        "cookie" => b"; ",
        _ => b", ",
    }
}

native! {
    HttpHeaders = "http_headers", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> Headers { Ok(Headers(find(number)?.head())) }
}

native! {
    /// `http_header(connection, name)`: the values of one header; the name is in lower case.
    HttpHeader = "http_header", suspends: false;
    read(stack) -> (f64, &'a [u8]) { (stack.number(1), stack.bytes(2)) }
    run((number, wanted)) -> Option<Vec<u8>> {
        let Some(head) = find(number)?.head() else { return Ok(None) };
        let mut found: Option<Vec<u8>> = None;
        for (name, value) in head.headers().filter(|(name, _)| name.as_bytes() == wanted) {
            match &mut found {
                None => found = Some(value.to_vec()),
                Some(values) => {
                    values.extend_from_slice(separator(name));
                    values.extend_from_slice(value);
                }
            }
        }
        Ok(found)
    }
}

native! {
    /// The name in the client's certificate.
    HttpPeerName = "http_peer_name", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> Option<String> { Ok(find(number)?.connection.peer_name()) }
}

// -- Bodies of requests -----------------------------------------------------------------------------------------------

/// The outcome of reading a body: the text, or nil at its end; or nil, and the status and the text of a refusal.
pub(crate) enum BodyRead {
    End,
    Piece(Bytes),
    Whole(Vec<u8>),
    Refused(u16, String),
}

impl BodyRead {
    fn of(fault: HttpFault) -> Result<BodyRead, Error> {
        match fault {
            HttpFault::Late => Ok(BodyRead::Refused(408, fault.to_string())),
            HttpFault::Malformed(_) => Ok(BodyRead::Refused(400, fault.to_string())),
            fault => Err(lost(&fault)),
        }
    }
}

impl Results for BodyRead {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        match self {
            BodyRead::End => stack.push_nil(),
            BodyRead::Piece(bytes) => stack.push_bytes(bytes),
            BodyRead::Whole(bytes) => stack.push_bytes(bytes),
            BodyRead::Refused(status, text) => {
                stack.push_nil();
                stack.push_number((*status).into());
                stack.push_bytes(text.as_bytes());
                return 3;
            }
        }
        1
    }
}

native! {
    /// `http_body(connection, max)`: reads the rest of the body.
    HttpBody = "http_body", suspends: true;
    read(stack) -> (f64, f64) { (stack.number(1), stack.number(2)) }
    run((number, max)) -> BodyRead {
        let open = find(number)?;
        let too_large = || {
            BodyRead::Refused(413, format!("the body is larger than {max} bytes, the limit"))
        };
        if open.connection.body_length() as f64 > max {
            return Ok(too_large());
        }
        let mut first = Bytes::new();
        let mut whole = Vec::new();
        loop {
            let piece = match open.connection.read_body() {
                Ok(Some(piece)) => piece,
                Ok(None) if whole.is_empty() => return Ok(BodyRead::Piece(first)),
                Ok(None) => return Ok(BodyRead::Whole(whole)),
                Err(fault) => return BodyRead::of(fault),
            };
            let before = first.len().max(whole.len());
            if (before + piece.len()) as f64 > max {
                return Ok(too_large());
            }
            // Most bodies are one piece, which is not copied here.
            if before == 0 {
                first = piece;
            } else {
                if whole.is_empty() {
                    whole.reserve(before + piece.len() + open.connection.body_length().min(1 << 20) as usize);
                    whole.extend_from_slice(&first);
                }
                whole.extend_from_slice(&piece);
            }
        }
    }
}

native! {
    /// `http_piece(connection)`: the next piece of the body, nil at its end.
    HttpPiece = "http_piece", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> BodyRead {
        match find(number)?.connection.read_body() {
            Ok(Some(piece)) => Ok(BodyRead::Piece(piece)),
            Ok(None) => Ok(BodyRead::End),
            Err(fault) => BodyRead::of(fault),
        }
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(
        stack; HttpServerClose, HttpConnections, HttpReload, HttpNext, HttpHeaders, HttpHeader, HttpPeerName, HttpBody,
        HttpPiece,
    );
    // SAFETY: the table is on top, and errors may be raised.
    unsafe { register_raw(stack, "http_listen", listen_raw) };
}
