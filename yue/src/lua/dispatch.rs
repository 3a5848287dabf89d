//! Serving: requests become Lua calls, moments of a connection's life become callbacks.
//!
//! A namespace is a Lua list of layers (tables). A name is looked up raw, from the last layer to the first, one
//! interned string per segment, when it is called: so what a program changes, the next call finds.

use super::calls::encode;
use super::connections::Connection;
use super::errors::{ErrorObject, without_addresses};
use super::host::{self, Host};
use super::log::{self, Level};
use super::references::{Refs, release_tokens};
use std::borrow::Cow;
use std::cell::Cell;
use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::rc::{Rc, Weak};
use std::time::Duration;
use yue_luajit::codec::Reader;
use yue_luajit::{Error, LuaThread, Running, Stack, Vm, ffi};
use yue_rpc::session::{Call, CallMethod, Dispatch, Replied, Reply, Session};
use yue_rpc::{CloseReason, ErrorKind, Failure, Hooks, Moment, Retry, Verdict};
use yue_scheduler::{current_id, time_left};

/// A list of layers in the registry, until it is dropped.
pub(crate) struct Layers {
    vm: Vm,
    reference: c_int,
}

impl Layers {
    /// Takes over a registry reference of the calling thread's VM.
    pub(crate) fn new(reference: c_int) -> Result<Layers, Error> {
        let vm = host::with_host(|host| host.vm.clone())?;
        Ok(Layers { vm, reference })
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        // SAFETY: the reference is ours; setting an existing registry slot allocates nothing and runs no code.
        unsafe {
            ffi::luaL_unref(self.vm.main_state(), ffi::LUA_REGISTRYINDEX, self.reference);
        }
    }
}

/// Counts a handler or callback of a connection while it runs.
struct Handling<'a>(&'a Connection);

impl Handling<'_> {
    fn begin(connection: &Connection) -> Handling<'_> {
        connection.handlers.set(connection.handlers.get() + 1);
        Handling(connection)
    }
}

impl Drop for Handling<'_> {
    fn drop(&mut self) {
        self.0.handlers.set(self.0.handlers.get() - 1);
    }
}

/// The prelude may have a record of the calling fiber, made for what is over now: it forgets it.
fn end_record(host: &Host, running: &mut Running<'_>) {
    let fiber = current_id();
    if !host.records.take(fiber) {
        return;
    }
    let (function, number) = (host.fiber_over.get(), super::fibers::number(fiber));
    // What it raises (out of memory) has nowhere to go.
    let _ = running.enter(move |stack| {
        let Some(function) = function else {
            return false;
        };
        // SAFETY: protected by `enter`; there is room for these few.
        unsafe { ffi::lua_rawgeti(stack.raw(), ffi::LUA_REGISTRYINDEX, function.into()) };
        stack.push_number(number);
        stack.push_boolean(true);
        true
    });
}

/// What the options of a listener, or of an opened connection, say to this layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServiceSettings {
    /// How long a call over its connections may take.
    pub(crate) timeout: Option<Duration>,
    /// What the codec of its connections refuses.
    pub(crate) codec: yue_luajit::codec::Limits,
    /// How many functions the other side may hold.
    pub(crate) references_max: usize,
    /// Whether tracebacks travel to the other side; if the options do not say, they stay on this machine.
    pub(crate) traceback: Option<bool>,
}

/// What a listener, or an opened connection, offers.
pub(crate) struct LuaService {
    /// Its number in Lua.
    pub(crate) id: u32,
    /// The list of layers.
    pub(crate) layers: Rc<Layers>,
    /// An opened connection's, not a listener's.
    pub(crate) opened: bool,
    pub(crate) settings: ServiceSettings,
    /// Somebody bound an event of one of its connections.
    pub(crate) watched: Cell<bool>,
    /// Lua has an object of one of its connections, and wants to know when that is over.
    pub(crate) known: Cell<bool>,
    this: Weak<LuaService>,
}

impl LuaService {
    pub(crate) fn new(
        id: u32,
        layers: Rc<Layers>,
        opened: bool,
        settings: ServiceSettings,
    ) -> Rc<LuaService> {
        Rc::new_cyclic(|this| LuaService {
            id,
            layers,
            opened,
            settings,
            watched: Cell::new(false),
            known: Cell::new(false),
            this: this.clone(),
        })
    }

    /// The counted pointer to this very service, or to a copy if the last one is just being dropped.
    pub(crate) fn strong(&self) -> Rc<LuaService> {
        self.this.upgrade().unwrap_or_else(|| {
            LuaService::new(self.id, self.layers.clone(), self.opened, self.settings)
        })
    }
}

/// Names longer than this are in no namespace; it bounds the work of a lookup.
const NAME_MAX: usize = 1024;

/// Pushes the function that `name` means in the layers at the registry reference; or pushes nothing. May raise.
fn push_method(stack: Stack<'_>, layers: c_int, name: &[u8]) -> Lookup {
    let state = stack.raw();
    let mut outcome = Lookup::Missing;
    if name.len() > NAME_MAX {
        return outcome;
    }
    // SAFETY: `Stack` promises a valid state where errors may be raised; every access is raw.
    unsafe {
        ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, layers.into());
        let count = ffi::lua_objlen(state, -1) as i64;
        for index in (1..=count).rev() {
            ffi::lua_rawgeti(state, -1, index);
            match walk(stack, name) {
                Lookup::Found => {
                    ffi::lua_replace(state, 1);
                    ffi::lua_settop(state, 1);
                    return Lookup::Found;
                }
                Lookup::Missing => {}
                other => outcome = other,
            }
            ffi::lua_settop(state, 1);
        }
        ffi::lua_settop(state, 0);
    }
    outcome
}

/// Replaces the table on top by what the dotted name means in it, if that is a function.
///
/// A table in a table may be a module that was loaded: in a file of symbols `os = require 'os'` makes a global of it.
/// That does not mean that strangers may call what is in it.
///
/// # Safety
/// A state where errors may be raised, with a value on top and room for two.
unsafe fn walk(stack: Stack<'_>, name: &[u8]) -> Lookup {
    let state = stack.raw();
    let mut at = 0;
    // SAFETY: the caller's promise.
    unsafe {
        for segment in name.split(|byte| *byte == b'.') {
            if ffi::lua_type(state, -1) != ffi::LUA_TTABLE || segment.first() == Some(&b'_') {
                return Lookup::Missing;
            }
            if at > 0 && stack.is_loaded_module(-1) {
                return Lookup::Module { name_end: at - 1 };
            }
            stack.push_bytes(segment);
            ffi::lua_rawget(state, -2);
            ffi::lua_replace(state, -2);
            at += segment.len() + 1;
        }
        match ffi::lua_type(state, -1) {
            ffi::LUA_TFUNCTION => Lookup::Found,
            _ => Lookup::Missing,
        }
    }
}

/// How pushing the function of a request went.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lookup {
    Found,
    Missing,
    /// It would be in a module; so many bytes of the name are the module's.
    Module {
        name_end: usize,
    },
    BadArguments,
}

/// Bytes of a method's name that are kept for the log; of longer ones the end is cut off.
const NAME_SHOWN: usize = 64;

/// What a request calls, for the log: the buffer that holds its name is given back before the handler runs.
struct Called {
    name: [u8; NAME_SHOWN],
    length: Option<usize>,
}

impl Called {
    #[inline]
    fn of(method: CallMethod<'_>) -> Called {
        let mut called = Called {
            name: [0; NAME_SHOWN],
            length: None,
        };
        if let CallMethod::Name(name) = method {
            let length = name.len().min(NAME_SHOWN);
            called.name[..length].copy_from_slice(&name[..length]);
            called.length = Some(length);
        }
        called
    }

    fn text(&self) -> Cow<'_, str> {
        match self.length {
            Some(length) => String::from_utf8_lossy(&self.name[..length]),
            None => "a function that was passed as a value".into(),
        }
    }
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
        let _handling = Handling::begin(&connection);
        thread.attach(|running| {
            let replied = self.serve(&host, &connection, running, call, reply);
            end_record(&host, running);
            replied
        })
    }

    fn release(&self, tokens: &[u64]) {
        release_tokens(tokens);
    }
}

impl LuaService {
    fn serve(
        &self,
        host: &Host,
        connection: &Rc<Connection>,
        running: &mut Running<'_>,
        call: &mut Call,
        reply: Reply,
    ) -> Replied {
        let called = Called::of(call.method());
        let mut lookup = Lookup::Missing;
        let mut fault = None;
        let (lookup_at, fault_at) = (&raw mut lookup, &raw mut fault);
        let (layers, codec) = (self.layers.reference, connection.codec());
        let refs = Refs::new(connection, call.link());
        let (call_at, refs_at) = (&raw mut *call, &raw const refs);
        let outcome = running.enter(move |stack| {
            // SAFETY: all of these outlive `enter`, which calls this closure on this very fiber before it returns.
            // Nothing here has a destructor.
            unsafe {
                let call = &mut *call_at;
                *lookup_at = match call.method() {
                    CallMethod::Name(name) => push_method(stack, layers, name),
                    CallMethod::Token(token) if (*refs_at).push_export(stack, token) => {
                        Lookup::Found
                    }
                    CallMethod::Token(_) => Lookup::Missing,
                };
                if *lookup_at != Lookup::Found {
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
                unsafe { encode(connection, state, first, count, "results", out) }?;
                Ok(count as u32)
            }),
            (Ok(None), Lookup::BadArguments) => {
                let text = fault.map_or_else(String::new, |fault| fault.to_string());
                reply.fail(&Failure::of_kind(
                    ErrorKind::Argument,
                    format!("the arguments cannot be read: {text}"),
                ))
            }
            (Ok(None), lookup) => {
                if let (Lookup::Module { name_end }, CallMethod::Name(name)) =
                    (lookup, call.method())
                {
                    host.connections.warn_of_module(&name[..name_end]);
                }
                reply.no_method(call)
            }
            (Err(_), _) => {
                let failure = host::describe_failure_within(state, codec.limits());
                // A handler that was stopped because its caller waits no longer has not failed by itself.
                let stopped = failure.type_name == ErrorKind::Timeout.name()
                    && time_left(call.deadline()).is_zero();
                log_failure(&failure, stopped, || {
                    let what = if call.is_notification() {
                        "notified"
                    } else {
                        "called"
                    };
                    let peer = call.session().address();
                    format!("the handler of {} failed, {what} by {peer}", called.text())
                });
                let travels = self.traceback_travels(call.session());
                reply.fail(&failure_of(failure, travels))
            }
        }
    }

    /// Whether a handler's traceback is sent to the other side. It tells the program's files and how it works: by
    /// default it does not leave the machine (an address of TCP may be that of a proxy).
    fn traceback_travels(&self, session: &Session) -> bool {
        let local = is_local(session);
        self.settings.traceback.unwrap_or(local)
    }

    /// Whether a layer has the callback, or somebody bound the event.
    fn has_callback(&self, name: &str) -> bool {
        let Some(host) = host::current() else {
            return false;
        };
        let layers = self.layers.reference;
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
        take: impl FnOnce(&Rc<Connection>, &mut LuaThread) -> R,
    ) -> Result<Option<R>, ErrorObject> {
        let over = || ErrorObject::of_kind(ErrorKind::Server, "the program is over");
        let host = host::current().ok_or_else(over)?;
        let mut thread = host.vm.thread()?;
        let connection = host.connections.known(session, self);
        let _handling = Handling::begin(&connection);
        let (callback, layers, id) = (
            host.connections.callback.get(),
            self.layers.reference,
            connection.id,
        );
        let (codec, refs) = (connection.codec(), Refs::new(&connection, session.link()));
        let refs_at = &raw const refs;
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
                            // The references outlive `enter`.
                            let decoded =
                                codec.decode_values(stack, &mut Reader::new(bytes), 1, &*refs_at);
                            if let Err(fault) = decoded {
                                let text =
                                    format!("the value that was granted cannot be read: {fault}");
                                let text = ManuallyDrop::new(text);
                                stack.push_bytes(text.as_bytes());
                                drop(ManuallyDrop::into_inner(text));
                                ffi::lua_error(state);
                            }
                        }
                    }
                }
                true
            });
            let state = running.thread().raw();
            let result = match outcome {
                // SAFETY: the results are on the stack of this fiber's own state.
                Ok(_) => unsafe {
                    let has = ffi::lua_toboolean(state, running.thread().first()) != 0;
                    Ok(has.then(|| take(&connection, running.thread())))
                },
                Err(_) => Err(host::describe_failure_within(state, codec.limits())),
            };
            end_record(&host, running);
            result
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

/// An error as it is sent to the other side.
fn failure_of(object: ErrorObject, with_traceback: bool) -> Failure {
    let traceback = object.traceback.filter(|_| with_traceback);
    Failure {
        code: object.code,
        type_name: object.type_name,
        message: without_addresses(&object.message).into_owned(),
        retryable: object.retryable,
        traceback: traceback.map(|text| without_addresses(&text).into_owned()),
        value: object.value,
    }
}

/// Whether the other side is on this machine for certain.
fn is_local(session: &Session) -> bool {
    let address = session.address();
    address.starts_with("unix://") || address.starts_with("thread://")
}

impl Hooks for LuaService {
    fn wants(&self, moment: Moment) -> bool {
        let name = match moment {
            Moment::Open => "__open",
            Moment::Accept => "__accept",
            Moment::Close => "__close",
            Moment::Timeout => "__timeout",
        };
        let wanted = self.watched.get() || (moment == Moment::Close && self.known.get());
        wanted || self.has_callback(name)
    }

    fn on_open(&self, session: &Session) -> Result<(), Failure> {
        let outcome = self.event(session, "open", Payload::None, |_, _| ());
        outcome
            .map(drop)
            .map_err(|failure| refusal_of(session, "__open", failure))
    }

    fn on_accept(&self, session: &Session, granted: Option<&[u8]>) -> Verdict {
        let payload = granted.map_or(Payload::None, Payload::Encoded);
        let outcome = self.event(session, "accept", payload, |connection, thread| {
            let (state, at) = (thread.raw(), thread.first() + 1);
            // SAFETY: the callback's first result, or nothing, is there.
            unsafe {
                let refused = if self.opened {
                    // The client has the last word, but need not say it.
                    ffi::lua_type(state, at) == ffi::LUA_TBOOLEAN
                        && ffi::lua_toboolean(state, at) == 0
                } else {
                    ffi::lua_toboolean(state, at) == 0
                };
                if self.opened && !refused {
                    return Verdict::granted();
                }
                if refused {
                    return Verdict::Refuse(Failure::of_kind(
                        ErrorKind::NotGranted,
                        "__accept returned false or nil",
                    ));
                }
                let mut value = Vec::new();
                match encode(connection, state, at, 1, "granted", &mut value) {
                    Ok(()) => Verdict::Grant(value),
                    Err(failure) => Verdict::Refuse(Failure::from(failure)),
                }
            }
        });
        match outcome {
            Ok(Some(verdict)) => verdict,
            Ok(None) => Verdict::granted(),
            Err(failure) => Verdict::Refuse(refusal_of(session, "__accept", failure)),
        }
    }

    fn on_close(&self, session: &Session, reason: &CloseReason) -> Retry {
        let text = reason.to_string();
        let outcome = self.event(session, "close", Payload::Text(&text), |_, thread| {
            // SAFETY: the callback's first result, or nothing, is there.
            let again = unsafe { ffi::lua_toboolean(thread.raw(), thread.first() + 1) != 0 };
            if again { Retry::Yes } else { Retry::No }
        });
        match outcome {
            Ok(decision) => decision.unwrap_or_default(),
            Err(failure) => {
                log_callback(session, "__close", &failure);
                Retry::No
            }
        }
    }

    fn on_timeout(&self, session: &Session) {
        if let Err(failure) = self.event(session, "timeout", Payload::None, |_, _| ()) {
            log_callback(session, "__timeout", &failure);
            session.close();
        }
    }
}

/// Logs the failure of a callback, which refuses the connection. A stranger who is not let in gets no traceback.
fn refusal_of(session: &Session, callback: &str, failure: ErrorObject) -> Failure {
    log_callback(session, callback, &failure);
    failure_of(failure, is_local(session))
}

fn log_callback(session: &Session, callback: &str, failure: &ErrorObject) {
    let kind = ErrorKind::from_name(&failure.type_name);
    let what = || format!("{callback} failed, for {}", session.address());
    if kind.is_some_and(|kind| kind.is_a(ErrorKind::Transport)) {
        // The other side has gone: a health check, or somebody who scans ports.
        log::write_limited(Level::Info, || {
            let ErrorObject {
                type_name, message, ..
            } = failure;
            format!("{}: {type_name}: {message}", what())
        });
    } else {
        log_failure(failure, false, what);
    }
}

/// Logs what a handler or a callback raised; of one that was stopped from outside only if everything is logged.
fn log_failure(failure: &ErrorObject, stopped: bool, what: impl Fn() -> String) {
    let stopped = stopped || failure.type_name == ErrorKind::Cancelled.name();
    let level = if stopped { Level::Debug } else { Level::Error };
    log::write_limited(level, || format!("{}: {}", what(), failure.report()));
}
