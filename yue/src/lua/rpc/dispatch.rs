//! Dispatch: requests become Lua calls, events of a connection's life become callbacks.
//!
//! A namespace is a Lua list of layers (tables). A name is looked up raw, from the last layer to the first, one
//! interned string per segment, at each call: so the next call sees a program's changes.

use crate::lua::fibers::end_record;
use crate::lua::host::entries::Entry;
use crate::lua::host::errors::{ErrorObject, describe_failure_within};
use crate::lua::host::{self, log};
use crate::lua::rpc::connections::{self, Connection};
use crate::lua::rpc::failures::{Called, failure_of, is_local, log_callback, log_failure};
use crate::lua::rpc::lookup::{Lookup, push_method, warn_of_module};
use crate::lua::rpc::messages::encode;
use crate::lua::rpc::references::{Refs, release_tokens};
use crate::lua::rpc::service::LuaService;
use crate::lua::rpc::traces;
use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::rc::Rc;
use yue_luajit::codec::Reader;
use yue_luajit::{LuaState, Running, ffi};
use yue_rpc::session::{
    Call, CallMethod, DESCRIBE, Dispatch, Replied, Reply, RequestContext, Session, note_change,
};
use yue_rpc::{CloseReason, ErrorKind, Failure, Hooks, Moment, Retry, Verdict};
use yue_scheduler::{LogLevel, time_left};

/// The error of requests that arrive when the program has ended on this loop.
const ENDED: &str = "the program has ended";

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
        debug_assert!(self.0.handlers.get() > 0);
        self.0.handlers.set(self.0.handlers.get() - 1);
    }
}

thread_local! {
    static RUNNING: Cell<usize> = const { Cell::new(0) };
}

/// The number of requests of this loop whose handlers run, also of connections that have closed.
pub(crate) fn running_requests() -> usize {
    RUNNING.get()
}

/// Counts a request while its handler runs.
struct RunningRequest;

impl RunningRequest {
    fn begin() -> RunningRequest {
        RUNNING.set(RUNNING.get() + 1);
        RunningRequest
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        RUNNING.set(RUNNING.get() - 1);
        note_change();
    }
}

/// The error for results that cannot be sent. It is not the caller's fault, as that of an argument would be.
#[cold]
fn fault_of_results(error: yue_rpc::Error) -> yue_rpc::Error {
    match error.kind() {
        ErrorKind::Argument => yue_rpc::Error::new(ErrorKind::Server, error.message()),
        _ => error,
    }
}

impl Dispatch for LuaService {
    fn call(&self, call: &mut Call, reply: Reply) -> Replied {
        let Some(host) = host::current() else {
            return reply.fail(&Failure::of_kind(ErrorKind::Server, ENDED));
        };
        let mut thread = match host.vm.borrow_state() {
            Ok(thread) => thread,
            Err(error) => {
                return reply.fail(&Failure::of_kind(ErrorKind::ServerBusy, error.to_string()));
            }
        };
        let connection = connections::known(&host.vm, call.session(), self);
        let _handling = Handling::begin(&connection);
        let _running = RunningRequest::begin();
        let called = Called::of(call.method());
        let address = connection.session.address();
        thread.attach(|running| {
            let replied = running.working_on(called.bytes(), address, |running| {
                self.serve(&connection, running, call, reply, &called)
            });
            // The fiber may continue with the next request of the batch, which is other work.
            end_record(running);
            replied
        })
    }

    fn release(&self, tokens: &[u64]) {
        release_tokens(tokens);
    }

    fn malformed(&self, _session: &Session, text: &str) {
        log::write_limited(LogLevel::Warn, || text.to_owned());
    }
}

impl LuaService {
    fn serve(
        &self,
        connection: &Rc<Connection>,
        running: &mut Running<'_>,
        call: &mut Call,
        reply: Reply,
        called: &Called,
    ) -> Replied {
        let mut lookup = Lookup::Missing;
        let mut fault = None;
        let (lookup_at, fault_at) = (&raw mut lookup, &raw mut fault);
        let (layers, codec) = (self.layers.reference, connection.codec());
        let describe = self.settings.describe;
        let refs = Refs::new(connection, call.link());
        let (call_at, refs_at) = (&raw mut *call, &raw const refs);
        let begun = self.methods.begin(called.counted_name());
        let outcome = running.enter(move |stack| {
            // SAFETY: all of these outlive `enter`, which calls this closure on this very fiber before it returns.
            // Nothing here has a destructor.
            unsafe {
                let call = &mut *call_at;
                *lookup_at = match call.method() {
                    CallMethod::Name(DESCRIBE) if describe => {
                        Entry::Describe.push(stack.raw());
                        ffi::lua_rawgeti(stack.raw(), ffi::LUA_REGISTRYINDEX, layers.into());
                        return true;
                    }
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
                let mut reader = Reader::new(params.bytes);
                match codec.decode_values(stack, &mut reader, params.count, &*refs_at) {
                    Ok(_) => {
                        let decoded = reader.decoded_bytes();
                        // The buffer goes back before the handler runs: a handler may run for hours.
                        call.release_params();
                        call.count_memory(decoded);
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
        // A name that no function has is not counted: peers could fill the table with invented names.
        if !matches!(
            (&outcome, lookup),
            (Ok(None), Lookup::Missing | Lookup::Module { .. })
        ) {
            let failed = !matches!(outcome, Ok(Some(_)));
            self.methods.end(called.counted_name(), begun, failed);
        }
        let state = running.state().raw();
        let first = running.state().first();
        match (outcome, lookup) {
            (Ok(Some(count)), _) => reply.results(|out| {
                // SAFETY: the results are on the stack of this fiber's own state.
                let encoded = unsafe { encode(connection, state, first, count, "results", out) };
                encoded.map_err(fault_of_results)?;
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
                    warn_of_module(&name[..name_end]);
                }
                reply.no_method(call)
            }
            (Err(_), _) => {
                let failure = describe_failure_within(state, codec.limits());
                let stopped = self.was_stopped(call, &failure);
                let verb = if call.is_notification() {
                    "notified"
                } else {
                    "called"
                };
                let (method, peer) = (called.text(), call.session().address());
                let suffix = traces::suffix();
                let what = format!("the handler of {method} failed, {verb} by {peer}{suffix}");
                log_failure(
                    &failure,
                    stopped,
                    &what,
                    &[("method", &method), ("peer", peer)],
                );
                let travels = self.traceback_travels(call.session());
                reply.fail(&failure_of(failure, travels))
            }
        }
    }

    /// Whether a handler's traceback is sent to the peer. A traceback reveals the program's files and how it works: by
    /// default it does not leave the machine (an address of TCP may be that of a proxy).
    fn traceback_travels(&self, session: &Session) -> bool {
        let local = is_local(session);
        self.settings.traceback.unwrap_or(local)
    }

    /// Whether the handler was stopped from outside: its caller's time ended, if that concerns it, or its connection
    /// was lost while it called back.
    fn was_stopped(&self, call: &Call, failure: &ErrorObject) -> bool {
        let abandoned = || RequestContext::current().is_some_and(|context| context.is_cancelled());
        match ErrorKind::from_name(&failure.type_name) {
            Some(ErrorKind::Timeout) => {
                self.settings.cancel && time_left(call.deadline()).is_zero()
            }
            Some(kind) => kind.is_a(ErrorKind::Transport) && abandoned(),
            None => false,
        }
    }

    /// Logs the failure of a callback, which refuses the connection. A refused stranger gets no traceback.
    fn refusal(&self, session: &Session, callback: &str, failure: ErrorObject) -> Failure {
        log_callback(session, callback, &failure);
        let travels = is_local(session) && self.traceback_travels(session);
        failure_of(failure, travels)
    }

    /// Whether a layer has the callback, or the program bound the event.
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

    /// Runs the prelude's `connection_event` for this event: returns whether there was a callback, and the value that
    /// `take` makes of its first result.
    fn event<R>(
        &self,
        session: &Session,
        moment: &str,
        payload: Payload<'_>,
        take: impl FnOnce(&Rc<Connection>, &mut LuaState) -> R,
    ) -> Result<Option<R>, ErrorObject> {
        let ended = || ErrorObject::of_kind(ErrorKind::Server, ENDED);
        let host = host::current().ok_or_else(ended)?;
        let mut thread = host.vm.borrow_state()?;
        let connection = connections::known(&host.vm, session, self);
        let _handling = Handling::begin(&connection);
        let (layers, id) = (self.layers.reference, connection.id);
        let (codec, refs) = (connection.codec(), Refs::new(&connection, session.link()));
        let refs_at = &raw const refs;
        thread.attach(|running| {
            let outcome = running.enter(|stack| {
                let state = stack.raw();
                // SAFETY: protected by `enter`; there is room for these few.
                unsafe {
                    Entry::ConnectionEvent.push(state);
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
            let state = running.state().raw();
            let result = match outcome {
                // SAFETY: the results are on the stack of this fiber's own state.
                Ok(_) => unsafe {
                    let has = ffi::lua_toboolean(state, running.state().first()) != 0;
                    Ok(has.then(|| take(&connection, running.state())))
                },
                Err(_) => Err(describe_failure_within(state, codec.limits())),
            };
            end_record(running);
            result
        })
    }
}

/// The arguments of an event's callback beside the connection.
#[derive(Clone, Copy)]
enum Payload<'a> {
    None,
    Text(&'a str),
    Encoded(&'a [u8]),
}

impl Hooks for LuaService {
    fn wants(&self, moment: Moment) -> bool {
        let name = match moment {
            Moment::Open => "__open",
            Moment::Accept => "__accept",
            Moment::Close => "__close",
            Moment::Timeout => "__timeout",
            // There is only an event, no callback.
            Moment::Full => return self.watched.get(),
            // The prelude requested it.
            Moment::Room => return true,
        };
        let wanted = self.watched.get() || (moment == Moment::Close && self.known.get());
        wanted || self.has_callback(name)
    }

    fn on_open(&self, session: &Session) -> Result<(), Failure> {
        let outcome = self.event(session, "open", Payload::None, |_, _| ());
        outcome
            .map(drop)
            .map_err(|failure| self.refusal(session, "__open", failure))
    }

    fn on_accept(&self, session: &Session, granted: Option<&[u8]>) -> Verdict {
        let payload = granted.map_or(Payload::None, Payload::Encoded);
        let outcome = self.event(session, "accept", payload, |connection, thread| {
            let (state, at) = (thread.raw(), thread.first() + 1);
            // SAFETY: the callback's first result, or nothing, is there.
            unsafe {
                let refused = if self.opened {
                    // The client makes the final decision, but need not return a value.
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
            // A decision of the program, with its reason; not a failure.
            Err(failure) if failure.type_name == ErrorKind::NotGranted.name() => {
                Verdict::Refuse(failure_of(failure, false))
            }
            Err(failure) => Verdict::Refuse(self.refusal(session, "__accept", failure)),
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

    fn on_full(&self, session: &Session) {
        if let Err(failure) = self.event(session, "full", Payload::None, |_, _| ()) {
            log_callback(session, "full", &failure);
        }
    }

    fn on_room(&self, session: &Session) {
        if let Err(failure) = self.event(session, "room", Payload::None, |_, _| ()) {
            log_callback(session, "latest", &failure);
        }
    }
}
