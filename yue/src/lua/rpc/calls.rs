//! Calls to the peer: the hot path.
//!
//! `c.f(1)` is a table whose `__call` is [`call_raw`]: the arguments are encoded from the Lua stack into the
//! connection's output, the fiber parks, and the answer is decoded onto the stack. No tree, no copy, and no Lua in
//! between.

use crate::lua::host::errors::{call_error, error, rpc_error};
use crate::lua::native::{register_raw, seconds};
use crate::lua::rpc::connections::{Connection, connection, find};
use crate::lua::rpc::messages::{decode_answer, encode_arguments};
use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::slice;
use std::time::Duration;
use yue_luajit::{Error, Stack, ffi, may_suspend, raise, suspending};
use yue_rpc::session::{Response, Target};
use yue_rpc::{ErrorKind, Timeout};

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
pub(crate) unsafe fn read_node<'a>(state: *mut ffi::lua_State) -> (f64, &'a [u8]) {
    // SAFETY: the caller's promise. Only a string is read: any other value could not be kept alive.
    unsafe {
        ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
        ffi::lua_rawgeti(state, 1, 1);
        let connection = ffi::lua_tonumber(state, -1);
        ffi::lua_settop(state, -2);
        ffi::lua_rawgeti(state, 1, 2);
        if ffi::lua_type(state, -1) != ffi::LUA_TSTRING {
            ffi::luaL_argerror(state, 1, c"this is not a procedure of a peer".as_ptr());
        }
        let mut length = 0;
        let start = ffi::lua_tolstring(state, -1, &mut length);
        ffi::lua_insert(state, 1);
        (connection, slice::from_raw_parts(start.cast(), length))
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
    // Before anything is written: a call whose caller cannot wait must not be sent.
    may_suspend()?;
    let connection = connection(order.connection)?;
    let timeout = Timeout::After(order.timeout.unwrap_or_else(|| connection.timeout()));
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

/// `node(...)`: calls a plain name.
unsafe extern "C-unwind" fn call_raw(state: *mut ffi::lua_State) -> c_int {
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
        let timeout = Some(seconds(ffi::luaL_checknumber(state, 2)));
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
    let Some(connection) = find(id) else {
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
        // Between threads of one program the sender can slow down. A peer elsewhere that does not keep up is its own
        // fault: the program asks for the result only if it matters.
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
        let timeout = Some(seconds(ffi::luaL_checknumber(state, 2)));
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

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    // SAFETY: the table is on top, and errors may be raised.
    unsafe {
        register_raw(stack, "call", call_raw);
        register_raw(stack, "call_timed", call_timed_raw);
        register_raw(stack, "notify", notify_raw);
        register_raw(stack, "notify_timed", notify_timed_raw);
    }
}
