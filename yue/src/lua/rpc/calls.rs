//! Calls to the peer: the hot path.
//!
//! `c.f(1)` is a table whose `__call` is [`call_raw`]: the arguments are encoded from the Lua stack into the
//! connection's output, the fiber parks, and the answer is decoded onto the stack. No tree, no copy, and no Lua in
//! between.

use crate::lua::host::errors::{ErrorObject, call_error, error, rpc_error};
use crate::lua::host::{Hold, with_host};
use crate::lua::native::{native, register, register_raw};
use crate::lua::rpc::connections::{CLOSED, Connection, connection};
use crate::lua::rpc::references::Refs;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::slice;
use std::time::Duration;
use yue_luajit::codec::{EncodeFault, Reader};
use yue_luajit::{Error, Exports, Stack, ffi, may_suspend, raise, suspending};
use yue_rpc::session::{CallId, Response, Target};
use yue_rpc::{ErrorKind, Timeout};
use yue_scheduler::{LocalWaker, park, prepare_park};

/// The order to call, as a raw function receives it: connection, method, and time limit.
struct Order<'a> {
    connection: f64,
    method: &'a [u8],
    timeout: Option<Duration>,
}

/// Reads the node (a proxy's table) at index 1, and puts its method below it: all arguments move up by one. May raise.
///
/// A program can replace the node's fields by `rawset`, even while a call waits, so the node does not keep the method's
/// bytes alive; the stack does.
///
/// # Safety
/// Lua runs the calling C function on `state`, which leaves index 1 alone while it uses the method.
#[inline]
unsafe fn read_node<'a>(state: *mut ffi::lua_State) -> (f64, &'a [u8]) {
    // SAFETY: the caller's promise. Only a string is read: any other value could not be kept alive.
    unsafe {
        ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
        ffi::lua_rawgeti(state, 1, 1);
        let connection = ffi::lua_tonumber(state, -1);
        ffi::lua_settop(state, -2);
        ffi::lua_rawgeti(state, 1, 2);
        if ffi::lua_type(state, -1) != ffi::LUA_TSTRING {
            ffi::luaL_argerror(state, 1, c"this is no procedure of another side".as_ptr());
        }
        let mut length = 0;
        let start = ffi::lua_tolstring(state, -1, &mut length);
        ffi::lua_insert(state, 1);
        (connection, slice::from_raw_parts(start.cast(), length))
    }
}

/// Appends the arguments from `first` to the top; makes room for functions among them if necessary.
///
/// # Safety
/// Lua runs the calling C function on `state`.
#[inline]
pub(crate) unsafe fn encode_arguments(
    connection: &Rc<Connection>,
    state: *mut ffi::lua_State,
    first: c_int,
    label: &str,
    out: &mut Vec<u8>,
) -> Result<u32, yue_rpc::Error> {
    // SAFETY: the caller's promise, for both calls.
    unsafe {
        let count = (ffi::lua_gettop(state) - first + 1).max(0);
        encode(connection, state, first, count, label, out)?;
        Ok(count as u32)
    }
}

/// Appends `count` values from `first` on.
///
/// # Safety
/// `state` is a state of the connection's VM with those values on it.
#[inline]
pub(crate) unsafe fn encode(
    connection: &Rc<Connection>,
    state: *mut ffi::lua_State,
    first: c_int,
    count: c_int,
    label: &str,
    out: &mut Vec<u8>,
) -> Result<(), yue_rpc::Error> {
    let codec = connection.codec();
    let refs = Refs::new(connection, connection.session.link());
    loop {
        // SAFETY: the caller's promise.
        let outcome = unsafe { codec.encode_values(state, first, count, label, &refs, out) };
        let Err(failure) = outcome else {
            return Ok(());
        };
        let kind = match failure.fault {
            // The room doubles each time, so this ends.
            EncodeFault::NoRoom if Exports::grow(&connection.exports) => continue,
            EncodeFault::NoRoom | EncodeFault::TooManyFunctions(_) => ErrorKind::MessageRefused,
            _ => ErrorKind::Argument,
        };
        return Err(yue_rpc::Error::new(kind, failure.to_string()));
    }
}

/// Makes one call with the arguments from `first` on, and waits for its answer.
///
/// # Safety
/// Lua runs the calling C function on `state`.
#[inline]
unsafe fn call(
    state: *mut ffi::lua_State,
    order: &Order<'_>,
    first: c_int,
) -> Result<(Response, Rc<Connection>), Error> {
    may_suspend()?;
    let (host, connection) = connection(order.connection)?;
    let timeout = Timeout::After(order.timeout.unwrap_or_else(|| connection.timeout(&host)));
    let response = connection
        .session
        .call(Target::Name(order.method), timeout, |out| {
            // SAFETY: the caller's promise.
            unsafe { encode_arguments(&connection, state, first, "args", out) }
        });
    match response {
        Ok(response) => Ok((response, connection)),
        Err(failure) => Err(call_error(&failure, connection.codec().limits())),
    }
}

/// Pushes an answer's values, or raises its error.
///
/// # Safety
/// Lua runs the calling C function on `state`, and nothing in it has a destructor except in a `ManuallyDrop`.
#[inline]
pub(crate) unsafe fn finish_call(
    state: *mut ffi::lua_State,
    outcome: Result<(Response, Rc<Connection>), Error>,
) -> c_int {
    // SAFETY: the caller's promise; the response is dropped before anything except decoding may raise, and is leaked if
    // decoding runs out of memory.
    unsafe {
        let answer = match outcome {
            Ok(answer) => answer,
            Err(failure) => raise(state, failure),
        };
        let mut answer = ManuallyDrop::new(answer);
        let decoded = decode_answer(Stack::new(state), &answer.0, &answer.1);
        ManuallyDrop::drop(&mut answer);
        match decoded {
            Ok(count) => count,
            Err(failure) => raise(
                state,
                error(
                    ErrorKind::Rpc,
                    format!("the answer cannot be read: {failure}"),
                ),
            ),
        }
    }
}

/// Pushes the values of an answer. May raise when out of memory.
#[inline]
fn decode_answer(
    stack: Stack<'_>,
    response: &Response,
    connection: &Rc<Connection>,
) -> Result<c_int, yue_luajit::codec::DecodeError> {
    let codec = connection.codec();
    let mut reader = Reader::new(response.bytes());
    stack.reserve(8);
    let refs = Refs::new(connection, response.link());
    codec.decode_values(stack, &mut reader, response.count(), &refs)
}

/// `node(...)`: calls a plain name.
pub(crate) unsafe extern "C-unwind" fn call_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        let (connection, method) = read_node(state);
        let outcome = suspending(state, "a remote call", || {
            call(
                state,
                &Order {
                    connection,
                    method,
                    timeout: None,
                },
                3,
            )
        });
        finish_call(state, outcome)
    }
}

/// `call_timed(node, seconds, ...)`.
unsafe extern "C-unwind" fn call_timed_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        let timeout = Some(crate::lua::fibers::waits::seconds(ffi::luaL_checknumber(
            state, 2,
        )));
        let (connection, method) = read_node(state);
        let outcome = suspending(state, "a remote call", || {
            call(
                state,
                &Order {
                    connection,
                    method,
                    timeout,
                },
                4,
            )
        });
        finish_call(state, outcome)
    }
}

/// Sends a notification with the arguments from `first` on, within the time limit if there is one. Never waits: returns
/// `false` if it was not queued, since the peer does not keep up or the connection has ended. An error is raised only
/// for a mistake of the program, and for a full queue between threads of one program, which can react to it.
///
/// # Safety
/// Lua runs the calling C function on `state`.
#[inline]
unsafe fn notify(
    state: *mut ffi::lua_State,
    order: &Order<'_>,
    first: c_int,
) -> Result<bool, Error> {
    may_suspend()?;
    let id = order.connection as u32;
    let Some(connection) = with_host(|host| host.connections.get(id))? else {
        return Ok(false);
    };
    let (session, method) = (&connection.session, Target::Name(order.method));
    let encode = |out: &mut Vec<u8>| {
        // SAFETY: the caller's promise.
        unsafe { encode_arguments(&connection, state, first, "args", out) }
    };
    let sent = match order.timeout {
        None => session.notify(method, encode),
        Some(time) => session.notify_within(time, method, encode),
    };
    let Err(failure) = sent else {
        return Ok(true);
    };
    match failure.kind() {
        ErrorKind::QueueFull if !session.address().starts_with("thread://") => Ok(false),
        kind if kind.is_a(ErrorKind::Transport) => Ok(false),
        _ => Err(rpc_error(&failure)),
    }
}

/// Pushes whether a notification was queued, or raises its error.
///
/// # Safety
/// Lua runs the calling C function on `state`.
#[inline]
unsafe fn finish_notify(state: *mut ffi::lua_State, outcome: Result<bool, Error>) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        match outcome {
            Ok(taken) => {
                ffi::lua_pushboolean(state, taken.into());
                1
            }
            Err(failure) => raise(state, failure),
        }
    }
}

/// `notify(node, ...)`: sends a notification; returns whether it was queued.
unsafe extern "C-unwind" fn notify_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        let (connection, method) = read_node(state);
        let order = Order {
            connection,
            method,
            timeout: None,
        };
        let outcome = suspending(state, "a notification", || notify(state, &order, 3));
        finish_notify(state, outcome)
    }
}

/// `notify_timed(node, seconds, ...)`: sends a notification within that time or not at all; returns whether it was
/// queued.
unsafe extern "C-unwind" fn notify_timed_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        let timeout = Some(crate::lua::fibers::waits::seconds(ffi::luaL_checknumber(
            state, 2,
        )));
        let (connection, method) = read_node(state);
        let order = Order {
            connection,
            method,
            timeout,
        };
        let outcome = suspending(state, "a notification", || notify(state, &order, 4));
        finish_notify(state, outcome)
    }
}

/// Asynchronous calls, for which futures wait.
#[derive(Default)]
pub(crate) struct AsyncCalls {
    next: Cell<u64>,
    /// The calls without an outcome, by their number in Lua.
    open: RefCell<HashMap<u64, OpenCall>>,
    done: RefCell<VecDeque<(u64, Outcome)>>,
    /// The fiber that passes outcomes to Lua.
    waiter: Cell<Option<LocalWaker>>,
}

struct OpenCall {
    connection: Rc<Connection>,
    call: Option<CallId>,
    _hold: Hold,
}

type Outcome = Result<(Response, Rc<Connection>), ErrorObject>;

impl AsyncCalls {
    fn finish(&self, number: u64, outcome: Result<Response, yue_rpc::Error>) {
        let Some(open) = self.open.borrow_mut().remove(&number) else {
            return;
        };
        let outcome = match outcome {
            Ok(mut response) => {
                // It may stay here until Lua takes it.
                response.detach();
                Ok((response, open.connection.clone()))
            }
            Err(failure) => {
                let limits = open.connection.codec().limits();
                Err(ErrorObject::of_call(&failure, limits))
            }
        };
        self.hand_over(number, outcome);
    }

    /// Passes an outcome to the fiber that completes futures.
    fn hand_over(&self, number: u64, outcome: Outcome) {
        self.done.borrow_mut().push_back((number, outcome));
        if let Some(waker) = self.waiter.take() {
            waker.wake();
        }
    }
}

/// `call_async(node, seconds or -1, ...)`: returns the call's number, which `next_completion` returns with the outcome.
unsafe extern "C-unwind" fn call_async_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        let seconds = ffi::luaL_checknumber(state, 2);
        let (connection_id, method) = read_node(state);
        let outcome = suspending(state, "a remote call", || {
            may_suspend()?;
            let host = with_host(Rc::clone)?;
            let number = host.async_calls.next.get() + 1;
            host.async_calls.next.set(number);
            let Some(connection) = host.connections.get(connection_id as u32) else {
                let lost = ErrorObject::of_kind(ErrorKind::ConnectionLost, CLOSED);
                host.async_calls.hand_over(number, Err(lost));
                return Ok(number as f64);
            };
            let timeout = if seconds < 0.0 {
                connection.timeout(&host)
            } else {
                crate::lua::fibers::waits::seconds(seconds)
            };
            let open = OpenCall {
                connection: connection.clone(),
                call: None,
                _hold: host.hold(),
            };
            host.async_calls.open.borrow_mut().insert(number, open);
            let told = Rc::downgrade(&host);
            let made = connection.session.call_async(
                Target::Name(method),
                Timeout::After(timeout),
                // SAFETY: Lua runs this very function on the state.
                |out| encode_arguments(&connection, state, 4, "args", out),
                move |outcome| {
                    if let Some(host) = told.upgrade() {
                        host.async_calls.finish(number, outcome);
                    }
                },
            );
            match made {
                Ok(call) => {
                    if let Some(open) = host.async_calls.open.borrow_mut().get_mut(&number) {
                        open.call = Some(call);
                    }
                }
                // Every failure reaches the future, whenever it was found.
                Err(failure) => host.async_calls.finish(number, Err(failure)),
            }
            Ok(number as f64)
        });
        match outcome {
            Ok(number) => {
                ffi::lua_pushnumber(state, number);
                1
            }
            Err(failure) => raise(state, failure),
        }
    }
}

/// `next_completion()`: waits for the next outcome: the call's number, then true and results, or false and the error.
unsafe extern "C-unwind" fn next_completion_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this; what has a destructor is in a `ManuallyDrop` while Lua may raise.
    unsafe {
        let next = suspending(state, "next_completion", || {
            may_suspend()?;
            loop {
                let next = with_host(|host| {
                    let next = host.async_calls.done.borrow_mut().pop_front();
                    if next.is_none() {
                        host.async_calls.waiter.set(Some(prepare_park()));
                    }
                    next
                })?;
                match next {
                    Some(next) => return Ok(next),
                    None => park("answers of calls").map_err(crate::lua::host::errors::stopped)?,
                }
            }
        });
        let (number, outcome) = match next {
            Ok(next) => next,
            Err(failure) => raise(state, failure),
        };
        let mut outcome = ManuallyDrop::new(outcome);
        let stack = Stack::new(state);
        stack.push_number(number as f64);
        let count = match &*outcome {
            Ok((response, connection)) => {
                stack.push_boolean(true);
                match decode_answer(stack, response, connection) {
                    Ok(count) => count + 2,
                    Err(fault) => {
                        ffi::lua_settop(state, 0);
                        stack.push_number(number as f64);
                        stack.push_boolean(false);
                        let text = format!("the answer cannot be read: {fault}");
                        let mut failure =
                            ManuallyDrop::new(ErrorObject::of_kind(ErrorKind::Rpc, text));
                        failure.push(stack);
                        ManuallyDrop::drop(&mut failure);
                        3
                    }
                }
            }
            Err(failure) => {
                stack.push_boolean(false);
                failure.push(stack);
                3
            }
        };
        ManuallyDrop::drop(&mut outcome);
        count
    }
}

native! {
    /// `cancel_call(number)`: gives an asynchronous call up.
    CancelCall = "cancel_call", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> bool {
        let open = with_host(|host| {
            let open = host.async_calls.open.borrow();
            open.get(&(number as u64)).and_then(|open| Some((open.connection.clone(), open.call?)))
        })?;
        Ok(open.is_some_and(|(connection, call)| connection.session.cancel_call(call)))
    }
}

native! {
    /// Returns `yue.config.timeout`, in seconds.
    GetTimeout = "get_timeout", suspends: false;
    read(_stack) -> () {}
    run(()) -> f64 { with_host(|host| host.call_timeout.get().as_secs_f64()) }
}

native! {
    SetTimeout = "set_timeout", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(length) -> () { with_host(|host| host.call_timeout.set(crate::lua::fibers::waits::seconds(length))) }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; CancelCall, GetTimeout, SetTimeout);
    // SAFETY: the table is on top, and errors may be raised.
    unsafe {
        register_raw(stack, "call", call_raw);
        register_raw(stack, "call_timed", call_timed_raw);
        register_raw(stack, "call_async", call_async_raw);
        register_raw(stack, "notify", notify_raw);
        register_raw(stack, "notify_timed", notify_timed_raw);
        register_raw(stack, "next_completion", next_completion_raw);
    }
}
