//! Serving: requests become Lua calls, moments of a connection's life become callbacks.
//!
//! A namespace is a Lua list of layers (tables). A name is looked up raw, from the last layer to the first, one
//! interned string per segment, when it is called: so what a program changes, the next call finds.

use super::calls::encode;
use super::connections::Connection;
use super::errors::ErrorObject;
use super::host::{self, Host};
use super::references::{Refs, release_tokens};
use std::cell::Cell;
use std::ffi::c_int;
use std::rc::{Rc, Weak};
use std::time::Duration;
use yue_luajit::codec::Reader;
use yue_luajit::{LuaThread, Running, Stack, ffi};
use yue_rpc::ErrorKind;
use yue_rpc::session::{
    Call, CallMethod, CloseReason, Dispatch, Failure, Hooks, Moment, Replied, Reply, Retry,
    Session, Verdict,
};

/// What a listener, or an opened connection, offers.
pub(crate) struct LuaService {
    /// Its number in Lua.
    pub(crate) id: u32,
    /// The list of layers, in the registry.
    pub(crate) layers: c_int,
    /// An opened connection's, not a listener's.
    pub(crate) opened: bool,
    /// Of calls over its connections, if the options say so.
    pub(crate) timeout: Option<Duration>,
    /// Somebody bound an event of one of its connections.
    pub(crate) watched: Cell<bool>,
    this: Weak<LuaService>,
}

impl LuaService {
    pub(crate) fn new(
        id: u32,
        layers: c_int,
        opened: bool,
        timeout: Option<Duration>,
    ) -> Rc<LuaService> {
        Rc::new_cyclic(|this| LuaService {
            id,
            layers,
            opened,
            timeout,
            watched: Cell::new(false),
            this: this.clone(),
        })
    }

    /// The counted pointer to this very service, or to a copy if the last one is just being dropped.
    pub(crate) fn strong(&self) -> Rc<LuaService> {
        self.this
            .upgrade()
            .unwrap_or_else(|| LuaService::new(self.id, self.layers, self.opened, self.timeout))
    }
}

/// Names longer than this are in no namespace; it bounds the work of a lookup.
const NAME_MAX: usize = 1024;

/// Pushes the function that `name` means in the layers at the registry reference; or pushes nothing and returns false.
/// May raise.
fn push_method(stack: Stack<'_>, layers: c_int, name: &[u8]) -> bool {
    let state = stack.raw();
    if name.len() > NAME_MAX {
        return false;
    }
    // SAFETY: `Stack` promises a valid state where errors may be raised; every access is raw.
    unsafe {
        ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, layers.into());
        let count = ffi::lua_objlen(state, -1) as i64;
        for index in (1..=count).rev() {
            ffi::lua_rawgeti(state, -1, index);
            if walk(stack, name) {
                ffi::lua_replace(state, 1);
                ffi::lua_settop(state, 1);
                return true;
            }
            ffi::lua_settop(state, 1);
        }
        ffi::lua_settop(state, 0);
    }
    false
}

/// Replaces the table on top by what the dotted name means in it, if that is a function.
///
/// # Safety
/// A state where errors may be raised, with a value on top and room for two.
unsafe fn walk(stack: Stack<'_>, name: &[u8]) -> bool {
    let state = stack.raw();
    // SAFETY: the caller's promise.
    unsafe {
        for segment in name.split(|byte| *byte == b'.') {
            if ffi::lua_type(state, -1) != ffi::LUA_TTABLE || segment.first() == Some(&b'_') {
                return false;
            }
            stack.push_bytes(segment);
            ffi::lua_rawget(state, -2);
            ffi::lua_replace(state, -2);
        }
        ffi::lua_type(state, -1) == ffi::LUA_TFUNCTION
    }
}

/// How pushing the function of a request went.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lookup {
    Found,
    Missing,
    BadArguments,
}

impl Dispatch for LuaService {
    fn call(&self, call: &mut Call, reply: Reply) -> Replied {
        let Some(host) = host::current() else {
            return reply.fail(&Failure::of_kind(ErrorKind::Server, "the program is over"));
        };
        let mut thread = match host.vm.thread() {
            Ok(thread) => thread,
            Err(error) => {
                return reply.fail(&Failure::of_kind(ErrorKind::ServerBusy, error.to_string()));
            }
        };
        let connection = host.connections.known(call.session(), self);
        thread.attach(|running| self.serve(&host, &connection, running, call, reply))
    }

    fn release(&self, tokens: &[u64]) {
        release_tokens(tokens);
    }
}

impl LuaService {
    fn serve(
        &self,
        host: &Rc<Host>,
        connection: &Rc<Connection>,
        running: &mut Running<'_>,
        call: &mut Call,
        reply: Reply,
    ) -> Replied {
        let mut lookup = Lookup::Missing;
        let mut fault = None;
        let (lookup_at, fault_at) = (&raw mut lookup, &raw mut fault);
        let (layers, codec) = (self.layers, host.vm.codec());
        let refs = Refs::new(connection);
        let (call_at, refs_at) = (&raw mut *call, &raw const refs);
        let outcome = running.enter(move |stack| {
            // SAFETY: all of these outlive `enter`, which calls this closure on this very fiber before it returns.
            // Nothing here has a destructor.
            unsafe {
                let call = &mut *call_at;
                let found = match call.method() {
                    CallMethod::Name(name) => push_method(stack, layers, name),
                    CallMethod::Token(token) => (*refs_at).push_export(stack, token),
                };
                if !found {
                    return false;
                }
                let params = call.params();
                stack.reserve(8);
                match codec.decode_values(
                    stack,
                    &mut Reader::new(params.bytes),
                    params.count,
                    &*refs_at,
                ) {
                    Ok(_) => {
                        *lookup_at = Lookup::Found;
                        call.release_params();
                        true
                    }
                    Err(error) => {
                        *lookup_at = Lookup::BadArguments;
                        *fault_at = Some(error);
                        false
                    }
                }
            }
        });
        let state = running.thread().raw();
        let first = running.thread().first();
        match (outcome, lookup) {
            (Ok(Some(count)), _) => reply.results(|out| {
                // SAFETY: the results are on the stack of this fiber's own state.
                unsafe { encode(host, connection, state, first, count, "results", out) }?;
                Ok(count as u32)
            }),
            (Ok(None), Lookup::BadArguments) => {
                let text = fault.map_or_else(String::new, |fault| fault.to_string());
                reply.fail(&Failure::of_kind(
                    ErrorKind::Argument,
                    format!("the arguments cannot be read: {text}"),
                ))
            }
            (Ok(None), _) => reply.no_method(call),
            (Err(_), _) => reply.fail(&failure_of(host::describe_failure(state))),
        }
    }

    /// Whether a layer has the callback, or somebody bound the event.
    fn has_callback(&self, name: &str) -> bool {
        let Some(host) = host::current() else {
            return false;
        };
        let layers = self.layers;
        let found = host.vm.protect(|stack| {
            let state = stack.raw();
            // SAFETY: protected; raw accesses only.
            unsafe {
                ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, layers.into());
                for index in 1..=ffi::lua_objlen(state, -1) as i64 {
                    ffi::lua_rawgeti(state, 1, index);
                    stack.push_bytes(name.as_bytes());
                    ffi::lua_rawget(state, -2);
                    if ffi::lua_type(state, -1) != ffi::LUA_TNIL {
                        return true;
                    }
                    ffi::lua_settop(state, 1);
                }
                false
            }
        });
        found.unwrap_or(false)
    }

    /// Runs the prelude's `connection_event` with this moment: whether there was a callback, and what `take` makes of
    /// its first result.
    fn event<R>(
        &self,
        session: &Session,
        moment: &str,
        payload: Payload<'_>,
        take: impl FnOnce(&Rc<Host>, &Rc<Connection>, &mut LuaThread) -> R,
    ) -> Result<Option<R>, ErrorObject> {
        let over = || ErrorObject::of_kind(ErrorKind::Server, "the program is over");
        let host = host::current().ok_or_else(over)?;
        let mut thread = host.vm.thread()?;
        let connection = host.connections.known(session, self);
        let (callback, layers, id) = (host.connections.callback.get(), self.layers, connection.id);
        thread.attach(|running| {
            let outcome = running.enter(|stack| {
                let state = stack.raw();
                // SAFETY: protected by `enter`; there is room for these few.
                unsafe {
                    ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, callback.into());
                    stack.push_bytes(moment.as_bytes());
                    stack.push_number(id.into());
                    ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, layers.into());
                    match payload {
                        Payload::None => stack.push_nil(),
                        Payload::Text(text) => stack.push_bytes(text.as_bytes()),
                        Payload::Encoded(bytes) => {
                            if !host::push_decoded(stack, Some(bytes)) {
                                stack.push_nil();
                            }
                        }
                    }
                }
                true
            });
            let state = running.thread().raw();
            match outcome {
                // SAFETY: the results are on the stack of this fiber's own state.
                Ok(_) => unsafe {
                    let has = ffi::lua_toboolean(state, running.thread().first()) != 0;
                    Ok(has.then(|| take(&host, &connection, running.thread())))
                },
                Err(_) => Err(host::describe_failure(state)),
            }
        })
    }
}

/// What a moment's callback gets beside the connection.
#[derive(Clone, Copy)]
enum Payload<'a> {
    None,
    Text(&'a str),
    Encoded(&'a [u8]),
}

pub(crate) fn failure_of(object: ErrorObject) -> Failure {
    Failure {
        code: object.code,
        type_name: object.type_name,
        message: object.message,
        retryable: object.retryable,
        traceback: object.traceback,
        value: object.value,
    }
}

impl Hooks for LuaService {
    fn wants(&self, moment: Moment) -> bool {
        let name = match moment {
            Moment::Open => "__open",
            Moment::Accept => "__accept",
            Moment::Close => "__close",
            Moment::Timeout => "__timeout",
        };
        self.watched.get() || self.has_callback(name)
    }

    fn on_open(&self, session: &Session) -> Result<(), Failure> {
        let outcome = self.event(session, "open", Payload::None, |_, _, _| ());
        outcome
            .map(drop)
            .map_err(|failure| failure_of(logged("__open", failure)))
    }

    fn on_accept(&self, session: &Session, granted: Option<&[u8]>) -> Verdict {
        let payload = granted.map_or(Payload::None, Payload::Encoded);
        let outcome = self.event(session, "accept", payload, |host, connection, thread| {
            let (state, at) = (thread.raw(), thread.first() + 1);
            // SAFETY: the callback's first result, or nothing, is there.
            unsafe {
                if ffi::lua_toboolean(state, at) == 0 {
                    return Verdict::Refuse(Failure::of_kind(
                        ErrorKind::NotGranted,
                        "__accept returned false or nil",
                    ));
                }
                let mut value = Vec::new();
                match encode(host, connection, state, at, 1, "granted", &mut value) {
                    Ok(()) => Verdict::Grant(value),
                    Err(failure) => Verdict::Refuse(Failure::from(failure)),
                }
            }
        });
        match outcome {
            Ok(Some(verdict)) => verdict,
            Ok(None) => Verdict::granted(),
            Err(failure) => Verdict::Refuse(failure_of(logged("__accept", failure))),
        }
    }

    fn on_close(&self, session: &Session, reason: &CloseReason) -> Retry {
        let text = reason.to_string();
        let outcome = self.event(session, "close", Payload::Text(&text), |_, _, thread| {
            // SAFETY: the callback's first result, or nothing, is there.
            let again = unsafe { ffi::lua_toboolean(thread.raw(), thread.first() + 1) != 0 };
            if again { Retry::Yes } else { Retry::No }
        });
        match outcome {
            Ok(decision) => decision.unwrap_or_default(),
            Err(failure) => {
                logged("__close", failure);
                Retry::No
            }
        }
    }

    fn on_timeout(&self, session: &Session) {
        if let Err(failure) = self.event(session, "timeout", Payload::None, |_, _, _| ()) {
            logged("__timeout", failure);
            session.close();
        }
    }
}

fn logged(callback: &str, failure: ErrorObject) -> ErrorObject {
    super::log::error(&format!("{callback} failed: {}", failure.report()));
    failure
}
