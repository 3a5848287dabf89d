//! The answers to requests: the natives that send them.

use super::server::{find, lost};
#[cfg(feature = "ws")]
use crate::lua::native::Results;
use crate::lua::native::{native, register};
use std::ffi::c_int;
use yue_luajit::{Error, Stack, ffi};
use yue_rpc::transport::{AnswerFault, Bytes, HttpAnswer, HttpConnection, HttpFault};

/// The body of an answer, as Lua passes it.
#[derive(Debug, Clone, Copy)]
enum AnswerText<'a> {
    None,
    Whole(&'a [u8]),
    /// It follows in pieces.
    Streamed,
}

/// An answer, as Lua passes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'a> {
    state: *mut ffi::lua_State,
    connection: f64,
    status: f64,
    body: AnswerText<'a>,
    /// The type of a body that has no header for it: 1 is text, 2 JSON.
    kind: f64,
    /// The position of the list of headers, names and values in turn, if there is one.
    headers: Option<c_int>,
    /// The connection ends afterwards.
    closes: bool,
}

impl<'a> Given<'a> {
    fn read(stack: Stack<'a>) -> Given<'a> {
        Given {
            state: stack.raw(),
            connection: stack.number(1),
            status: stack.number(2),
            body: match stack.kind(3) {
                ffi::LUA_TNIL => AnswerText::None,
                ffi::LUA_TBOOLEAN => AnswerText::Streamed,
                _ => AnswerText::Whole(stack.bytes(3)),
            },
            kind: stack.number(4),
            headers: (stack.kind(5) == ffi::LUA_TTABLE).then_some(5),
            closes: stack.boolean(6),
        }
    }

    /// Sends it; the fault of one that cannot be sent.
    fn send(self) -> Result<Option<String>, Error> {
        let open = find(self.connection)?;
        let to_head = open.is_head_only();
        match self.build(&open.connection, to_head) {
            Ok(answer) => {
                open.connection.answer(answer);
                Ok(None)
            }
            Err(text) => Ok(Some(text)),
        }
    }

    fn build(self, connection: &HttpConnection, to_head: bool) -> Result<HttpAnswer, String> {
        let said = |fault: AnswerFault| fault.to_string();
        let status = match self.status {
            status if (200.0..=999.0).contains(&status) => status as u16,
            _ => 0,
        };
        let mut answer = connection.new_answer(status).map_err(said)?;
        if let Some(index) = self.headers {
            self.add_headers(index, &mut answer)?;
        }
        if self.closes {
            answer.close();
        }
        match self.kind as u32 {
            1 => answer.default_type("text/plain; charset=utf-8"),
            2 => answer.default_type("application/json"),
            _ => {}
        }
        match self.body {
            AnswerText::None => answer.whole(Bytes::new(), to_head).map_err(said)?,
            AnswerText::Whole(text) => {
                answer
                    .whole(Bytes::copy_from_slice(text), to_head)
                    .map_err(said)?;
            }
            AnswerText::Streamed => answer.streamed().map_err(said)?,
        }
        Ok(answer)
    }

    fn add_headers(self, index: c_int, answer: &mut HttpAnswer) -> Result<(), String> {
        // SAFETY: the list is an argument of the calling function, whose state has room for two more values. Raw reads
        // raise nothing, and the text of a string is there already.
        unsafe {
            let text = |at: i64| {
                ffi::lua_rawgeti(self.state, index, at);
                if ffi::lua_type(self.state, -1) != ffi::LUA_TSTRING {
                    return &b""[..];
                }
                let mut length = 0;
                let start = ffi::lua_tolstring(self.state, -1, &mut length);
                std::slice::from_raw_parts(start.cast(), length)
            };
            for at in (1..ffi::lua_objlen(self.state, index) as i64).step_by(2) {
                let (name, value) = (text(at), text(at + 1));
                let added = answer.header(name, value);
                if let Err(fault) = added {
                    let name = String::from_utf8_lossy(name).into_owned();
                    ffi::lua_settop(self.state, -3);
                    return Err(format!("the header '{}': {fault}", name.escape_debug()));
                }
                ffi::lua_settop(self.state, -3);
            }
        }
        Ok(())
    }
}

native! {
    /// `http_answer(connection, status, body, kind, headers, closes)`: answers the request. The body is text, nil, or
    /// true if it follows in pieces. Returns what is wrong with an answer that cannot be sent.
    HttpAnswerNative = "http_answer", suspends: false;
    read(stack) -> Given<'a> { Given::read(stack) }
    run(given) -> Option<String> { given.send() }
}

/// Whether a piece was sent, or else the connection or the answer has ended.
pub(super) fn sent(outcome: Result<(), HttpFault>) -> Result<bool, Error> {
    match outcome {
        Ok(()) => Ok(true),
        Err(HttpFault::Lost) => Ok(false),
        Err(fault) => Err(lost(&fault)),
    }
}

native! {
    /// `http_send(connection, piece)`: sends a piece of a body, and waits for room. False if nobody wants more.
    HttpSend = "http_send", suspends: true;
    read(stack) -> (f64, &'a [u8]) { (stack.number(1), stack.bytes(2)) }
    run((number, piece)) -> bool {
        let open = find(number)?;
        // A stream may be endless, and the listener has been closed.
        if open.connection.is_ending() {
            return Ok(false);
        }
        sent(open.connection.send(Bytes::copy_from_slice(piece)))
    }
}

native! {
    /// `http_end(connection, is_complete)`: ends a body that is sent in pieces.
    HttpEnd = "http_end", suspends: false;
    read(stack) -> (f64, bool) { (stack.number(1), stack.boolean(2)) }
    run((number, is_complete)) -> () {
        find(number)?.connection.end(is_complete);
        Ok(())
    }
}

/// The outcome of a request for a WebSocket: nothing, or the status and the text of a refusal.
#[cfg(feature = "ws")]
pub(crate) struct Upgraded(Option<(u16, String)>);

#[cfg(feature = "ws")]
impl Results for Upgraded {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        match &self.0 {
            None => 0,
            Some((status, text)) => {
                stack.push_number((*status).into());
                stack.push_bytes(text.as_bytes());
                2
            }
        }
    }
}

#[cfg(feature = "ws")]
native! {
    /// `http_upgrade(connection, listener)`: makes the connection one of the listener's.
    HttpUpgrade = "http_upgrade", suspends: false;
    read(stack) -> (f64, f64) { (stack.number(1), stack.number(2)) }
    run((number, listener)) -> Upgraded {
        let open = find(number)?;
        let listener = crate::lua::rpc::connections::with_connections(|all| {
            all.listeners.borrow().get(&(listener as u32)).map(|listening| listening.listener.clone())
        });
        let (Some(listener), Some(head)) = (listener, open.head()) else {
            return Ok(Upgraded(Some((503, "the server is closed".to_owned()))));
        };
        Ok(Upgraded(listener.accept_upgrade(&open.connection, &head).err()))
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(stack; HttpAnswerNative, HttpSend, HttpEnd);
    #[cfg(feature = "ws")]
    register!(stack; HttpUpgrade);
}
