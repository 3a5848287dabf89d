//! Groups of connections: the natives behind `yue.group`.
//!
//! A group has a number in Lua. A message is encoded once, from the Lua stack, for all members on all loops. If its
//! arguments contain a function, they are encoded once for each member instead, since each connection counts the
//! functions that cross it; that works for members on this loop only.
//!
//! A call to a group has two parts: `group_ask` sends, and `group_wait` waits, so that a call with a future is sent in
//! order, too.

use crate::lua::host::errors::{ErrorObject, error, rpc_error, stopped};
use crate::lua::host::values::push_decoded;
use crate::lua::host::with_host;
use crate::lua::native::{native, register, register_raw, seconds};
use crate::lua::rpc::calls;
use crate::lua::rpc::connections::{Connection, connection};
use crate::lua::rpc::messages::{decode_answer, decode_foreign_answer, encode_arguments};
use crate::lua::rpc::references::NoFunctions;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use yue_luajit::{Error, NoReferences, Raise, Stack, ffi, may_suspend, raise, suspending};
use yue_rpc::group::{Answer, Answers, Group, Member, MemberId};
use yue_rpc::session::{EncodedCall, Response, Session};
use yue_rpc::{ErrorKind, Timeout};
use yue_scheduler::simulation::Hashing;

/// The groups of one loop that Lua has objects of, and the calls to them.
#[derive(Default)]
struct Groups {
    last: Cell<u32>,
    by_id: RefCell<HashMap<u32, Group, Hashing>>,
    last_call: Cell<u64>,
    /// The calls that were made, until their fiber waits for the answers.
    calls: RefCell<HashMap<u64, Answers, Hashing>>,
}

thread_local! {
    static GROUPS: Groups = Groups::default();
}

/// Drops this file's state at the end of the loop. Numbers are not reused, so a late finalizer finds nothing.
pub(crate) fn clear() {
    GROUPS.with(|groups| {
        let all = groups.by_id.take();
        let calls = groups.calls.take();
        drop((all, calls));
    });
}

/// The group behind a number from Lua.
fn group(id: f64) -> Result<Group, Error> {
    let found = GROUPS.with(|groups| groups.by_id.borrow().get(&(id as u32)).cloned());
    found.ok_or_else(|| error(ErrorKind::Runtime, "the group was collected"))
}

/// The Lua connection of a session, if it has one.
fn connection_of(session: &Session) -> Option<Rc<Connection>> {
    session.extension()?.downcast().ok()
}

/// The time limit of a member's call that sets none, on the member's loop.
fn limit_of(session: &Session) -> Timeout {
    connection_of(session).map_or(Timeout::Default, |connection| {
        Timeout::After(connection.timeout())
    })
}

/// A name of a group, or none.
fn read_name<'a>(stack: Stack<'a>) -> Option<&'a [u8]> {
    (!stack.is_none_or_nil(1)).then(|| stack.bytes(1))
}

native! {
    /// `group_new(name or nil)`: returns the number of a group.
    New = "group_new", suspends: false;
    read(stack) -> Option<&'a [u8]> { read_name(stack) }
    run(name) -> f64 {
        let group = match name {
            Some(name) => match std::str::from_utf8(name) {
                Ok(name) => Group::named(name),
                Err(_) => return Err(error(ErrorKind::Argument, "the name of a group is text in UTF-8")),
            },
            None => Group::new(),
        };
        let id = GROUPS.with(|groups| {
            let id = groups.last.get() + 1;
            groups.last.set(id);
            groups.by_id.borrow_mut().insert(id, group);
            id
        });
        Ok(id.into())
    }
}

native! {
    /// `group_release(group)`: the object of a group was collected. For finalizers.
    Release = "group_release", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> () {
        // At the very end of the thread the table is gone.
        let group = GROUPS.try_with(|groups| groups.by_id.borrow_mut().remove(&(id as u32)));
        drop(group);
        Ok(())
    }
}

native! {
    Leave = "group_leave", suspends: false;
    read(stack) -> (f64, f64) { (stack.number(1), stack.number(2)) }
    run((id, member)) -> bool {
        let group = group(id)?;
        // A connection that was removed has left.
        Ok(connection(member).is_ok_and(|connection| group.leave(&connection.session)))
    }
}

native! {
    /// The number of members on all loops.
    Length = "group_length", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> f64 { Ok(group(id)?.len() as f64) }
}

native! {
    /// `group_close(group, member, reason)`: closes the connection of a member on another loop.
    Close = "group_close", suspends: false;
    read(stack) -> (f64, f64, &'a [u8]) { (stack.number(1), stack.number(2), stack.bytes(3)) }
    run((id, member, reason)) -> bool {
        let member = MemberId::from_number(member as u64);
        Ok(group(id)?.close_member(member, &String::from_utf8_lossy(reason)))
    }
}

/// `group_join(group, connection, data or nil)`: returns whether the connection is a member now. A named group keeps a
/// copy of the data for the other loops.
unsafe extern "C-unwind" fn join_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this; the values stay on its stack until the function returns.
    unsafe {
        let stack = Stack::new(state);
        let (id, member) = (stack.number(1), stack.number(2));
        let outcome = suspending(state, "join", || {
            let group = group(id)?;
            let Ok(connection) = connection(member) else {
                return Ok(false);
            };
            let data = match group.name() {
                Some(_) if !stack.is_none_or_nil(3) => Some(encode_data(state, 3)?),
                _ => None,
            };
            Ok(group.join_with(&connection.session, data, connection.timeout()))
        });
        match outcome {
            Ok(joined) => {
                stack.push_boolean(joined);
                1
            }
            Err(failure) => raise(state, failure),
        }
    }
}

/// Encodes the data of a member for the other loops.
///
/// # Safety
/// Lua runs the calling function on `state`.
unsafe fn encode_data(state: *mut ffi::lua_State, index: c_int) -> Result<Arc<[u8]>, Error> {
    let codec = with_host(|host| host.vm.codec())?;
    let mut bytes = Vec::new();
    // SAFETY: the caller's promise.
    unsafe { codec.encode_values(state, index, 1, "data", &NoReferences, &mut bytes) }.map_err(
        |failure| {
            let text = format!(
                "the data of a member of a named group is copied for the other loops: {failure}"
            );
            error(ErrorKind::Argument, text)
        },
    )?;
    Ok(bytes.into())
}

/// A call or a notification, as a raw function receives it.
struct Order<'a> {
    group: Group,
    method: &'a [u8],
    /// That member alone.
    only: Option<MemberId>,
}

/// Reads the node (a proxy's table) at index 1 and the seconds behind it; puts the node's method below it. Returns the
/// group's number, the method, the member's number or 0, and the seconds. The arguments are at 4 then. May raise.
///
/// # Safety
/// Lua runs the calling C function on `state`, which leaves index 1 alone while it uses the method.
unsafe fn read_order<'a>(state: *mut ffi::lua_State) -> (f64, &'a [u8], u64, f64) {
    // SAFETY: the caller's promise.
    unsafe {
        let seconds = ffi::luaL_checknumber(state, 2);
        let (group, method) = calls::read_node(state);
        ffi::lua_rawgeti(state, 2, 5);
        let member = ffi::lua_tonumber(state, -1);
        ffi::lua_settop(state, -2);
        (group, method, member as u64, seconds)
    }
}

/// The index of the first argument, behind method, node and seconds.
const FIRST: c_int = 4;

impl<'a> Order<'a> {
    fn of(group_id: f64, method: &'a [u8], member: u64) -> Result<Order<'a>, Error> {
        may_suspend()?;
        Ok(Order {
            group: group(group_id)?,
            method,
            only: (member != 0).then(|| MemberId::from_number(member)),
        })
    }

    /// Encodes the arguments once for all members. `None`: there is a function among them.
    ///
    /// # Safety
    /// Lua runs the calling C function on `state`.
    unsafe fn encode(&self, state: *mut ffi::lua_State) -> Result<Option<EncodedCall>, Error> {
        let codec = with_host(|host| host.vm.codec())?;
        let refs = NoFunctions::default();
        let encoded = EncodedCall::new(self.method, |out| {
            // SAFETY: the caller's promise.
            unsafe {
                let count = (ffi::lua_gettop(state) - FIRST + 1).max(0);
                match codec.encode_values(state, FIRST, count, "args", &refs, out) {
                    Ok(()) => Ok(count as u32),
                    Err(failure) => {
                        let text = failure.to_string();
                        Err(yue_rpc::Error::new(ErrorKind::Argument, text))
                    }
                }
            }
        });
        match encoded {
            Ok(call) => Ok(Some(call)),
            Err(_) if refs.found_one() => Ok(None),
            Err(failure) => Err(rpc_error(&failure)),
        }
    }

    /// The encoder of the arguments for one member.
    ///
    /// # Safety
    /// Lua runs the calling C function on `state`.
    unsafe fn encoder_for_each(
        state: *mut ffi::lua_State,
    ) -> impl FnMut(&Session, &mut Vec<u8>) -> Result<u32, yue_rpc::Error> {
        move |session, out| {
            let Some(connection) = connection_of(session) else {
                let text = "a function can be sent only over a connection that Lua knows";
                return Err(yue_rpc::Error::new(ErrorKind::Argument, text));
            };
            // SAFETY: the caller's promise.
            unsafe { encode_arguments(&connection, state, FIRST, "args", out) }
        }
    }

    /// The refusal of a function for a member on another loop.
    fn no_function_for_member(&self) -> Error {
        let text = "a function cannot be sent to a connection of another loop: it works only on the loop that made it";
        error(ErrorKind::Argument, text)
    }

    /// # Safety
    /// Lua runs the calling C function on `state`.
    unsafe fn notify(
        &self,
        state: *mut ffi::lua_State,
        time: Option<Duration>,
    ) -> Result<usize, Error> {
        // SAFETY: the caller's promise.
        let call = unsafe { self.encode(state)? };
        let taken = match (&call, self.only, time) {
            (Some(call), Some(member), _) => self
                .group
                .notify_member(member, time, call)
                .map(usize::from),
            (Some(call), None, Some(time)) => self.group.notify_within(time, call),
            (Some(call), None, None) => self.group.notify(call),
            (None, Some(_), _) => return Err(self.no_function_for_member()),
            (None, None, _) => {
                // SAFETY: the caller's promise.
                let encode = unsafe { Order::encoder_for_each(state) };
                self.group.notify_each(self.method, time, encode)
            }
        };
        taken.map_err(|failure| rpc_error(&failure))
    }

    /// # Safety
    /// Lua runs the calling C function on `state`.
    unsafe fn ask(
        &self,
        state: *mut ffi::lua_State,
        time: Option<Duration>,
    ) -> Result<Answers, Error> {
        // SAFETY: the caller's promise.
        let call = unsafe { self.encode(state)? };
        let timeout = time.map_or(Timeout::Default, Timeout::After);
        Ok(match (&call, self.only) {
            (Some(call), Some(member)) => self.group.ask_member(member, timeout, call),
            (Some(call), None) if time.is_none() => self.group.ask_limited(limit_of, call),
            (Some(call), None) => self.group.ask(timeout, call),
            (None, Some(_)) => return Err(self.no_function_for_member()),
            (None, None) => {
                // SAFETY: the caller's promise.
                let encode = unsafe { Order::encoder_for_each(state) };
                let asked = self.group.ask_each(self.method, timeout, encode);
                asked.map_err(|failure| rpc_error(&failure))?
            }
        })
    }
}

/// A time limit from Lua: none if it is negative.
fn limit(value: f64) -> Option<Duration> {
    (value >= 0.0).then(|| seconds(value))
}

/// `group_notify(node, seconds or -1, ...)`: returns the number of members that took the notification.
unsafe extern "C-unwind" fn notify_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        let (group, method, member, seconds) = read_order(state);
        let outcome = suspending(state, "a notification", || {
            Order::of(group, method, member)?.notify(state, limit(seconds))
        });
        match outcome {
            Ok(taken) => {
                ffi::lua_pushnumber(state, taken as f64);
                1
            }
            Err(failure) => raise(state, failure),
        }
    }
}

/// `group_ask(node, seconds or -1, ...)`: calls the members; returns the number of the call.
unsafe extern "C-unwind" fn ask_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        let (group, method, member, seconds) = read_order(state);
        let outcome = suspending(state, "a remote call", || {
            let answers = Order::of(group, method, member)?.ask(state, limit(seconds))?;
            Ok(GROUPS.with(|groups| {
                let number = groups.last_call.get() + 1;
                groups.last_call.set(number);
                groups.calls.borrow_mut().insert(number, answers);
                number as f64
            }))
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

native! {
    /// `group_cancel(call)`: gives a call up that no fiber waits for yet.
    Cancel = "group_cancel", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        let answers = GROUPS.with(|groups| groups.calls.borrow_mut().remove(&(number as u64)));
        drop(answers);
        Ok(())
    }
}

/// A member in a list for Lua, with `member`, its number, and `address`. `[1]` is the number of its connection, if that
/// belongs to this loop.
struct Row {
    member: Member,
    connection: Option<Rc<Connection>>,
}

impl Row {
    fn of(member: Member) -> Row {
        let connection = member.session().and_then(connection_of);
        Row { member, connection }
    }

    /// Pushes a table with the member. May raise.
    ///
    /// # Safety
    /// `stack` is where errors may be raised, with room for a few values.
    unsafe fn push(&self, stack: Stack<'_>, room: c_int) {
        let state = stack.raw();
        // SAFETY: the caller's promise.
        unsafe {
            ffi::lua_createtable(state, room, 3);
            stack.push_number(self.member.id().number() as f64);
            ffi::lua_setfield(state, -2, c"member".as_ptr());
            stack.push_bytes(self.member.address().as_bytes());
            ffi::lua_setfield(state, -2, c"address".as_ptr());
            if let Some(connection) = &self.connection {
                stack.push_number(connection.id.into());
                ffi::lua_rawseti(state, -2, 1);
            }
        }
    }
}

/// `group_members(group)`: returns a list of members on all loops; `[2]` is the data of one on another loop.
unsafe extern "C-unwind" fn members_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this; what has a destructor is in a `ManuallyDrop` while Lua may raise.
    unsafe {
        let stack = Stack::new(state);
        let id = stack.number(1);
        let outcome = suspending(state, "members", || {
            let members = group(id)?.members();
            Ok(members.into_iter().map(Row::of).collect::<Vec<_>>())
        });
        let rows = match outcome {
            Ok(rows) => ManuallyDrop::new(rows),
            Err(failure) => raise(state, failure),
        };
        stack.reserve(8);
        ffi::lua_createtable(state, rows.len() as c_int, 0);
        for (index, row) in rows.iter().enumerate() {
            row.push(stack, 2);
            if row.connection.is_none() && push_decoded(stack, row.member.data()) {
                ffi::lua_rawseti(state, -2, 2);
            }
            ffi::lua_rawseti(state, -2, index as i64 + 1);
        }
        drop(ManuallyDrop::into_inner(rows));
        1
    }
}

/// The outcome of one member's call.
struct Outcome {
    row: Row,
    result: Result<Response, ErrorObject>,
}

impl Outcome {
    fn of(answer: Answer) -> Outcome {
        let row = Row::of(answer.member);
        let result = answer.result.map_err(|failure| match &row.connection {
            Some(connection) => ErrorObject::of_call(&failure, connection.codec().limits()),
            None => ErrorObject::of_call(&failure, Default::default()),
        });
        Outcome { row, result }
    }

    /// Pushes the table of the member, its success and its results. May raise.
    ///
    /// # Safety
    /// `stack` is where errors may be raised.
    unsafe fn push(&self, stack: Stack<'_>) {
        let state = stack.raw();
        // SAFETY: the caller's promise; what has a destructor here is in a `ManuallyDrop`.
        unsafe {
            stack.reserve(8);
            let room = self
                .result
                .as_ref()
                .map_or(3, |response| 2 + response.count() as c_int);
            self.row.push(stack, room);
            let table = stack.top();
            let decoded = match &self.result {
                Ok(response) => match &self.row.connection {
                    Some(connection) => decode_answer(stack, response, connection),
                    None => decode_foreign_answer(stack, response),
                },
                Err(failure) => {
                    failure.push(stack);
                    Ok(1)
                }
            };
            let ok = self.result.is_ok() && decoded.is_ok();
            let count = match decoded {
                Ok(count) => count,
                Err(fault) => {
                    ffi::lua_settop(state, table);
                    let text = format!("the answer cannot be read: {fault}");
                    let mut failure = ManuallyDrop::new(ErrorObject::of_kind(ErrorKind::Rpc, text));
                    failure.push(stack);
                    ManuallyDrop::drop(&mut failure);
                    1
                }
            };
            for index in (0..count).rev() {
                ffi::lua_rawseti(state, table, i64::from(index) + 3);
            }
            stack.reserve(2);
            stack.push_boolean(ok);
            ffi::lua_rawseti(state, table, 2);
            stack.push_number(f64::from(count + 2));
            ffi::lua_setfield(state, table, c"n".as_ptr());
        }
    }
}

/// `group_wait(call)`: waits for all outcomes, and returns a list of them.
unsafe extern "C-unwind" fn wait_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this; what has a destructor is in a `ManuallyDrop` while Lua may raise.
    unsafe {
        let number = ffi::luaL_checknumber(state, 1);
        let outcome = suspending(state, "the answers of a group", || {
            may_suspend()?;
            let answers = GROUPS.with(|groups| groups.calls.borrow_mut().remove(&(number as u64)));
            let Some(answers) = answers else {
                return Err(error(ErrorKind::Cancelled, "the call was cancelled"));
            };
            let answers = answers.wait().map_err(stopped)?;
            Ok(answers.into_iter().map(Outcome::of).collect::<Vec<_>>())
        });
        let outcomes = match outcome {
            Ok(outcomes) => ManuallyDrop::new(outcomes),
            Err(failure) => raise(state, failure),
        };
        let stack = Stack::new(state);
        ffi::lua_createtable(state, outcomes.len() as c_int, 0);
        for (index, outcome) in outcomes.iter().enumerate() {
            outcome.push(stack);
            ffi::lua_rawseti(state, -2, index as i64 + 1);
        }
        drop(ManuallyDrop::into_inner(outcomes));
        1
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; New, Release, Leave, Length, Close, Cancel);
    // SAFETY: the table is on top, and errors may be raised.
    unsafe {
        register_raw(stack, "group_join", join_raw);
        register_raw(stack, "group_members", members_raw);
        register_raw(stack, "group_notify", notify_raw);
        register_raw(stack, "group_ask", ask_raw);
        register_raw(stack, "group_wait", wait_raw);
    }
}
