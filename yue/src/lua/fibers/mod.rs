//! Fibers: starts, names and cancels Lua fibers. What they wait for is in the files below.

pub(crate) mod signals;
pub(crate) mod waits;

use crate::lua::host::entries::Entry;
use crate::lua::host::errors::{ErrorObject, error, error_of};
use crate::lua::host::{Hold, log, with_host};
use crate::lua::native::{native, register, register_raw};
use crate::lua::number_hash::NumberHash;
use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::c_int;
use std::slice;
use yue_luajit::{Error, LuaState, Running, Stack, Vm, ffi, raise, suspending};
use yue_rpc::ErrorKind;
use yue_scheduler::{FiberId, cancel, current_id, in_fiber, this_loop};

/// Bits of a fiber's number in Lua that hold its index. Above them are 29 bits of generation, so that a double is
/// exact. The number does not contain the loop: it is used only on the loop of the Lua state that received it.
const INDEX_BITS: u32 = 24;

pub(crate) fn number(id: FiberId) -> f64 {
    let bits = id.to_bits() as u64;
    let (generation, index) = (bits >> 32, bits & ((1 << INDEX_BITS) - 1));
    ((generation & ((1 << 29) - 1)) << INDEX_BITS | index) as f64
}

pub(crate) fn fiber_id(number: f64) -> FiberId {
    fiber_of_number(number, this_loop::id())
}

/// The fiber of that loop which has that number in Lua.
pub(crate) fn fiber_of_number(number: f64, loop_id: u32) -> FiberId {
    let number = number as u64;
    let fiber = (number >> INDEX_BITS) << 32 | number & ((1 << INDEX_BITS) - 1);
    FiberId::from_bits(u128::from(loop_id) << 64 | u128::from(fiber))
}

native! {
    /// The number of the calling fiber. `nil` outside fibers: in a finalizer that the collector runs while the loop is
    /// idle, or at the program's end.
    Current = "current", suspends: false;
    read(_stack) -> () {}
    run(()) -> Option<f64> { Ok(in_fiber().then(|| number(current_id()))) }
}

native! {
    FiberName = "fiber_name", suspends: false;
    read(_stack) -> () {}
    run(()) -> Option<String> { Ok(yue_scheduler::current_name()) }
}

thread_local! {
    /// Fibers that the prelude has a record of, made for work after which the fiber may continue with other work.
    static RECORDS: RefCell<HashSet<FiberId, NumberHash>> = RefCell::default();
}

native! {
    /// Records that the prelude has a record of the calling fiber, and needs to know when the work it was made for
    /// ends.
    NoteRecord = "note_record", suspends: false;
    read(_stack) -> () {}
    run(()) -> () {
        RECORDS.with_borrow_mut(|records| records.insert(current_id()));
        Ok(())
    }
}

native! {
    /// `note_record_of(number)`: like `note_record`, for another fiber.
    NoteRecordOf = "note_record_of", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        RECORDS.with_borrow_mut(|records| records.insert(fiber_id(number)));
        Ok(())
    }
}

/// Like `note_record`, for other fibers.
pub(crate) fn note_records(fibers: &[FiberId]) {
    RECORDS.with_borrow_mut(|records| records.extend(fibers));
}

/// Like [`end_record`], for a fiber that runs no Lua any more.
pub(crate) fn end_record_after(vm: &Vm) {
    let fiber = current_id();
    if !RECORDS.with_borrow_mut(|records| !records.is_empty() && records.remove(&fiber)) {
        return;
    }
    let number = number(fiber);
    // An error here (out of memory) cannot be reported.
    let _ = vm.protect(move |stack| {
        if Entry::EndRecord.reference().is_some() {
            stack.reserve(3);
            // SAFETY: protected; there is room.
            unsafe {
                Entry::EndRecord.push(stack.raw());
                stack.push_number(number);
                stack.push_boolean(true);
                ffi::lua_call(stack.raw(), 2, 0);
            }
        }
    });
}

/// Ends the prelude's record of the calling fiber, if it made one for the work that has ended.
#[inline]
pub(crate) fn end_record(running: &mut Running<'_>) {
    let fiber = current_id();
    if RECORDS.with_borrow_mut(|records| !records.is_empty() && records.remove(&fiber)) {
        end_record_of(fiber, running);
    }
}

#[cold]
fn end_record_of(fiber: FiberId, running: &mut Running<'_>) {
    let number = number(fiber);
    // An error here (out of memory) cannot be reported.
    let _ = running.enter(move |stack| {
        if Entry::EndRecord.reference().is_none() {
            return false;
        }
        // SAFETY: protected by `enter`; there is room for these few.
        unsafe { Entry::EndRecord.push(stack.raw()) };
        stack.push_number(number);
        stack.push_boolean(true);
        true
    });
}

/// Drops this room's state at the end of the loop.
pub(crate) fn clear() {
    RECORDS.take();
    signals::clear();
    waits::clear();
}

native! {
    Cancel = "cancel", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> bool { Ok(cancel(fiber_id(id))) }
}

/// Creates a state for a new fiber, and moves the function at `function_at` and the values above it there.
///
/// # Safety
/// Lua runs the calling C function on `state`.
unsafe fn thread_with(state: *mut ffi::lua_State, function_at: c_int) -> Result<LuaState, Error> {
    // A finalizer that runs while the loop is idle is not in a fiber.
    // SAFETY: the caller's promise.
    let vm = Vm::current()
        .or_else(|| unsafe { Vm::of(state) })
        .ok_or_else(|| error(ErrorKind::Runtime, "the program has ended on this thread"))?;
    let mut thread = vm
        .borrow_state()
        .map_err(|failure| error(ErrorKind::Runtime, failure.to_string()))?;
    // SAFETY: the caller's promise; both states belong to one VM.
    let moved = unsafe { thread.take_values(state, ffi::lua_gettop(state) - function_at + 1) };
    if moved {
        Ok(thread)
    } else {
        Err(error(ErrorKind::Runtime, "too many arguments"))
    }
}

/// Logs the error of a fiber that nothing in Lua has caught. Cancels at the program's end are not failures.
fn report_failure(failure: &ErrorObject) {
    let ends = with_host(|host| host.is_dying()).unwrap_or(true);
    if !(ends && failure.type_name == ErrorKind::Cancelled.name()) {
        log::write_failure("a fiber failed", failure);
    }
}

fn start(thread: LuaState, name: Option<&str>, hold: Option<Hold>) -> Result<f64, Error> {
    let vm = with_host(|host| host.vm.clone())?;
    let spawned = thread.spawn(name, move |ended| {
        // A daemon is cancelled at the end; that is not a failure.
        if !ended.ok && hold.is_some() {
            report_failure(&error_of(&ended));
        }
        end_record_after(&vm);
        drop(hold);
    });
    let handle = spawned.map_err(|failure| {
        error(
            ErrorKind::Runtime,
            format!("cannot start a fiber: {failure}"),
        )
    })?;
    Ok(number(handle.id()))
}

/// `spawn(name or nil, fn, ...)`: returns the number of the new fiber, which holds the program until it ends.
unsafe extern "C-unwind" fn spawn_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this. The name lies on the Lua stack until the function has returned.
    unsafe {
        let mut length = 0;
        let start_of_name = ffi::lua_tolstring(state, 1, &mut length);
        let name = if start_of_name.is_null() {
            None
        } else {
            std::str::from_utf8(slice::from_raw_parts(start_of_name.cast(), length)).ok()
        };
        finish(
            state,
            suspending(state, "spawn", || {
                let thread = thread_with(state, 2)?;
                let hold = with_host(|host| host.hold())?;
                start(thread, name, Some(hold))
            }),
        )
    }
}

/// `spawn_helper(fn, ...)`: like `spawn`, without a name.
unsafe extern "C-unwind" fn spawn_helper_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe { spawn_unnamed(state, true) }
}

/// `spawn_daemon(fn, ...)`: starts a fiber that does not hold the program; it ends with the loop.
unsafe extern "C-unwind" fn spawn_daemon_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe { spawn_unnamed(state, false) }
}

/// # Safety
/// Lua runs the calling C function on `state`.
unsafe fn spawn_unnamed(state: *mut ffi::lua_State, holds: bool) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        let outcome = suspending(state, "spawn", || {
            let thread = thread_with(state, 1)?;
            let hold = if holds {
                Some(with_host(|host| host.hold())?)
            } else {
                None
            };
            start(thread, None, hold)
        });
        finish(state, outcome)
    }
}

/// Pushes the number, or raises.
///
/// # Safety
/// Lua runs the calling C function on `state`, and nothing in it has a destructor any more.
unsafe fn finish(state: *mut ffi::lua_State, outcome: Result<f64, Error>) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        match outcome {
            Ok(id) => {
                ffi::lua_pushnumber(state, id);
                1
            }
            Err(failure) => raise(state, failure),
        }
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; Current, FiberName, NoteRecord, NoteRecordOf, Cancel);
    // SAFETY: the table is on top, and errors may be raised.
    unsafe {
        register_raw(stack, "spawn", spawn_raw);
        register_raw(stack, "spawn_helper", spawn_helper_raw);
        register_raw(stack, "spawn_daemon", spawn_daemon_raw);
    }
}
