//! Asynchronous calls: each has a number, by which the prelude finds the future that its outcome completes.
//!
//! Outcomes arrive outside fibers, where no Lua may run. They wait in a queue for the prelude's fiber that takes them.

use crate::lua::host::errors::{ErrorObject, call_error, stopped};
use crate::lua::host::{Hold, with_host};
use crate::lua::native::{self, native, register, register_raw};
use crate::lua::rpc::calls::read_node;
use crate::lua::rpc::connections::{CLOSED, Connection, find};
use crate::lua::rpc::messages::{decode_answer, encode_arguments};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::rc::Rc;
use yue_luajit::{Raise, Stack, ffi, may_suspend, raise, suspending};
use yue_rpc::session::{CallId, MemberAnswer, Response, Target};
use yue_rpc::{ErrorKind, Timeout};
use yue_scheduler::simulation::Hashing;
use yue_scheduler::{LocalWaker, park, prepare_park};

/// Asynchronous calls, for which futures wait.
#[derive(Default)]
struct AsyncCalls {
    last: Cell<u64>,
    /// The calls without an outcome, by their number in Lua.
    open: RefCell<HashMap<u64, OpenCall, Hashing>>,
    done: RefCell<VecDeque<Completion>>,
    /// The fiber that passes outcomes to Lua.
    waiter: Cell<Option<LocalWaker>>,
}

struct OpenCall {
    connection: Rc<Connection>,
    call: Option<CallId>,
    _hold: Hold,
}

/// An outcome on its way to Lua.
struct Completion {
    number: u64,
    source: Source,
    outcome: Outcome,
}

/// The sender of an outcome.
#[derive(Clone, Copy)]
enum Source {
    /// The peer.
    Peer,
    /// One of the members that were called.
    Member(SocketAddr),
    /// Nobody: no more members' answers are taken.
    End,
}

type Outcome = Result<(Response, Rc<Connection>), ErrorObject>;

thread_local! {
    static CALLS: AsyncCalls = AsyncCalls::default();
}

/// Drops this file's state at the end of the loop. Numbers are not reused, so a late outcome finds nothing.
pub(crate) fn clear() {
    CALLS.with(|calls| {
        let open = calls.open.take();
        let done = calls.done.take();
        calls.waiter.take();
        drop((open, done));
    });
}

impl AsyncCalls {
    fn finish(&self, number: u64, outcome: Result<Response, yue_rpc::Error>) {
        let Some(open) = self.open.borrow_mut().remove(&number) else {
            return;
        };
        self.hand_over(number, Source::Peer, outcome_of(outcome, &open.connection));
    }

    /// A member has answered, or none will any more.
    fn take_member_answer(&self, number: u64, answer: MemberAnswer) {
        let connection = {
            let open = self.open.borrow();
            open.get(&number).map(|open| open.connection.clone())
        };
        let Some(connection) = connection else { return };
        match answer {
            MemberAnswer::From(sender, outcome) => {
                let outcome = outcome_of(outcome, &connection);
                self.hand_over(number, Source::Member(sender), outcome);
            }
            MemberAnswer::End(failure) => {
                let open = self.open.borrow_mut().remove(&number);
                drop(open);
                self.hand_over(number, Source::End, outcome_of(Err(failure), &connection));
            }
        }
    }

    /// Passes an outcome to the fiber that completes futures.
    fn hand_over(&self, number: u64, source: Source, outcome: Outcome) {
        self.done.borrow_mut().push_back(Completion {
            number,
            source,
            outcome,
        });
        if let Some(waker) = self.waiter.take() {
            waker.wake();
        }
    }
}

fn outcome_of(outcome: Result<Response, yue_rpc::Error>, connection: &Rc<Connection>) -> Outcome {
    match outcome {
        Ok(mut response) => {
            // It may stay here until Lua takes it.
            response.detach();
            Ok((response, connection.clone()))
        }
        Err(failure) => {
            let limits = connection.codec().limits();
            Err(ErrorObject::of_call(&failure, limits))
        }
    }
}

/// `call_async(node, seconds or -1, ...)`: returns the call's number, which `next_completion` returns with the outcome.
unsafe extern "C-unwind" fn call_async_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe { start(state, false) }
}

/// `call_members(node, seconds or -1, ...)`: the same for a call to all members of a group. `next_completion` returns
/// each answer with its sender. Raises if the call cannot be made.
unsafe extern "C-unwind" fn call_members_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe { start(state, true) }
}

/// Makes a call; returns its number.
///
/// # Safety
/// Lua runs the calling C function on `state`.
unsafe fn start(state: *mut ffi::lua_State, to_members: bool) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let seconds = ffi::luaL_checknumber(state, 2);
        let (connection_id, method) = read_node(state);
        let outcome = suspending(state, "a remote call", || {
            may_suspend()?;
            let number = CALLS.with(|calls| {
                calls.last.set(calls.last.get() + 1);
                calls.last.get()
            });
            let Some(connection) = find(connection_id as u32) else {
                let lost = ErrorObject::of_kind(ErrorKind::ConnectionLost, CLOSED);
                if to_members {
                    return Err(yue_luajit::Error::value(lost));
                }
                CALLS.with(|calls| calls.hand_over(number, Source::Peer, Err(lost)));
                return Ok(number as f64);
            };
            let timeout = if seconds < 0.0 {
                connection.timeout()
            } else {
                native::seconds(seconds)
            };
            let open = OpenCall {
                connection: connection.clone(),
                call: None,
                _hold: with_host(|host| host.hold())?,
            };
            CALLS.with(|calls| calls.open.borrow_mut().insert(number, open));
            let (target, timeout) = (Target::Name(method), Timeout::After(timeout));
            // SAFETY: Lua runs this very function on the state.
            let arguments =
                |out: &mut Vec<u8>| encode_arguments(&connection, state, 4, "args", out);
            let made = if to_members {
                let each = move |answer| {
                    CALLS.with(|calls| calls.take_member_answer(number, answer));
                };
                let session = &connection.session;
                session.call_members(target, timeout, arguments, each)
            } else {
                let done = move |outcome| CALLS.with(|calls| calls.finish(number, outcome));
                connection
                    .session
                    .call_async(target, timeout, arguments, done)
            };
            match made {
                // It may have its outcome already.
                Ok(call) => CALLS.with(|calls| {
                    if let Some(open) = calls.open.borrow_mut().get_mut(&number) {
                        open.call = Some(call);
                    }
                }),
                Err(failure) if to_members => {
                    let open = CALLS.with(|calls| calls.open.borrow_mut().remove(&number));
                    drop(open);
                    return Err(call_error(&failure, connection.codec().limits()));
                }
                // Every failure reaches the future, whenever it was found.
                Err(failure) => CALLS.with(|calls| calls.finish(number, Err(failure))),
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
/// Of a call to members, the sender's address comes second, or false when there are no more answers.
unsafe extern "C-unwind" fn next_completion_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this; what has a destructor is in a `ManuallyDrop` while Lua may raise.
    unsafe {
        let next = suspending(state, "next_completion", || {
            may_suspend()?;
            loop {
                let next = CALLS.with(|calls| {
                    let next = calls.done.borrow_mut().pop_front();
                    if next.is_none() {
                        calls.waiter.set(Some(prepare_park()));
                    }
                    next
                });
                match next {
                    Some(next) => return Ok(next),
                    None => park("answers of calls").map_err(stopped)?,
                }
            }
        });
        let Completion {
            number,
            source,
            outcome,
        } = match next {
            Ok(next) => next,
            Err(failure) => raise(state, failure),
        };
        let mut outcome = ManuallyDrop::new(outcome);
        let stack = Stack::new(state);
        stack.push_number(number as f64);
        push_sender(stack, source);
        let before = ffi::lua_gettop(state);
        let count = before
            + match &*outcome {
                Ok((response, connection)) => {
                    stack.push_boolean(true);
                    match decode_answer(stack, response, connection) {
                        Ok(count) => count + 1,
                        Err(fault) => {
                            ffi::lua_settop(state, before);
                            stack.push_boolean(false);
                            let text = format!("the answer cannot be read: {fault}");
                            let mut failure =
                                ManuallyDrop::new(ErrorObject::of_kind(ErrorKind::Rpc, text));
                            failure.push(stack);
                            ManuallyDrop::drop(&mut failure);
                            2
                        }
                    }
                }
                Err(failure) => {
                    stack.push_boolean(false);
                    failure.push(stack);
                    2
                }
            };
        ManuallyDrop::drop(&mut outcome);
        count
    }
}

/// Pushes the second value of a completion, if it has one. May raise.
fn push_sender(stack: Stack<'_>, source: Source) {
    match source {
        Source::Peer => {}
        Source::Member(address) => {
            let mut text = ManuallyDrop::new(format!("udp://{address}"));
            stack.push_bytes(text.as_bytes());
            // SAFETY: it is not used any more.
            unsafe { ManuallyDrop::drop(&mut text) };
        }
        Source::End => stack.push_boolean(false),
    }
}

native! {
    /// `cancel_call(number)`: abandons an asynchronous call.
    CancelCall = "cancel_call", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> bool {
        let open = CALLS.with(|calls| {
            let open = calls.open.borrow();
            open.get(&(number as u64)).and_then(|open| Some((open.connection.clone(), open.call?)))
        });
        Ok(open.is_some_and(|(connection, call)| connection.session.cancel_call(call)))
    }
}

native! {
    /// `call_of(number)`: the link of an asynchronous call, the end of the link on which it was made, and the call's
    /// number there, as one text. nil if it has its outcome.
    CallOf = "call_of", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> Option<String> {
        Ok(CALLS.with(|calls| {
            let open = calls.open.borrow();
            let open = open.get(&(number as u64))?;
            let session = &open.connection.session;
            Some(crate::admin::call_key(session.link_id(), open.connection.service.opened, open.call?.msgid()))
        }))
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; CancelCall, CallOf);
    // SAFETY: the table is on top, and errors may be raised.
    unsafe {
        register_raw(stack, "call_async", call_async_raw);
        register_raw(stack, "call_members", call_members_raw);
        register_raw(stack, "next_completion", next_completion_raw);
    }
}
