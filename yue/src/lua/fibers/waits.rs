//! Waits: the natives under futures, emitters, sleep, deadlines and shields.
//!
//! `prepare` begins a wait of the calling fiber and returns its number; any code passes that to `wake`; `park` waits. A
//! number is valid for one wait: the slot's generation is part of it, so a late `wake` does nothing.

use crate::lua::host::entries::Entry;
use crate::lua::host::errors::{ErrorObject, error, stopped, stopped_object};
use crate::lua::native::{Results, native, register, register_raw, seconds};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_int;
use std::rc::Rc;
use std::time::UNIX_EPOCH;
use yue_luajit::{Raise, Stack, check_native_stack, ffi, may_suspend};
use yue_rpc::ErrorKind;
use yue_scheduler::simulation;
use yue_scheduler::{
    CancelScope, Instant, LocalWaker, Wakeup, deadline_after, in_fiber, now, park_until,
    prepare_park, shield, sleep, sleep_until, with_deadline, yield_now,
};

/// Bits of a wait's number that hold its slot; the rest, up to 2^53, counts uses.
const SLOT_BITS: u32 = 24;

/// The waits of one VM, and its cancel scopes.
#[derive(Default)]
pub(crate) struct Waits {
    slots: RefCell<Slots>,
    scopes: RefCell<HashMap<u64, Rc<CancelScope>>>,
    scope_next: Cell<u64>,
}

thread_local! {
    static WAITS: Waits = Waits::default();
}

/// Drops this room's state at the end of the loop.
pub(crate) fn clear() {
    WAITS.with(|waits| {
        waits.slots.take();
        let scopes = waits.scopes.take();
        drop(scopes);
    });
}

#[derive(Default)]
struct Slots {
    all: Vec<(u32, Option<LocalWaker>)>,
    free: Vec<u32>,
}

impl Waits {
    fn begin(&self, waker: LocalWaker) -> Option<f64> {
        let mut slots = self.slots.borrow_mut();
        let index = match slots.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(slots.all.len())
                    .ok()
                    .filter(|index| *index < 1 << SLOT_BITS)?;
                slots.all.push((0, None));
                index
            }
        };
        let slot = &mut slots.all[index as usize];
        debug_assert!(slot.1.is_none(), "a free slot holds no waker");
        slot.1 = Some(waker);
        Some((u64::from(slot.0) << SLOT_BITS | u64::from(index)) as f64)
    }

    /// Takes the waker of a wait that has not ended.
    fn find(&self, number: f64) -> Option<LocalWaker> {
        let (generation, index) = parts(number)?;
        let slots = self.slots.borrow();
        slots
            .all
            .get(index)
            .filter(|slot| slot.0 == generation)
            .and_then(|slot| slot.1)
    }

    fn end(&self, number: f64) {
        let Some((generation, index)) = parts(number) else {
            return;
        };
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = slots
            .all
            .get_mut(index)
            .filter(|slot| slot.0 == generation && slot.1.is_some())
        {
            // The next wait in this slot has another number, so a late `wake` of this one finds nothing. 29 bits of
            // generation: with the slot they make the 53 bits of a Lua number.
            *slot = ((generation + 1) & ((1 << 29) - 1), None);
            slots.free.push(index as u32);
        }
    }
}

fn parts(number: f64) -> Option<(u32, usize)> {
    if !(0.0..9_007_199_254_740_992.0).contains(&number) {
        return None;
    }
    let number = number as u64;
    Some((
        (number >> SLOT_BITS) as u32,
        (number & ((1 << SLOT_BITS) - 1)) as usize,
    ))
}

/// The reason of a wait, as listings show it.
fn reason(text: &[u8]) -> &'static str {
    match text {
        b"future" => "a future",
        b"any future" => "any of some futures",
        b"event" => "an event",
        b"client" => "a client's end",
        b"mutex" => "a mutex",
        b"room" => "room in a channel",
        b"semaphore" => "a semaphore",
        b"tick" => "the next tick of a task group",
        b"connection" => "a connection to end, so that there is room",
        b"set" => "an event that is not set",
        b"value" => "a value of a channel",
        b"thread" => "another thread",
        _ => "Lua",
    }
}

native! {
    Prepare = "prepare", suspends: false;
    read(_stack) -> () {}
    run(()) -> f64 {
        // Refused here already, so that no wait is begun which `park` would not end.
        may_suspend()?;
        WAITS.with(|waits| waits.begin(prepare_park()))
            .ok_or_else(|| error(ErrorKind::Runtime, "too many fibers wait at once"))
    }
}

native! {
    Wake = "wake", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> bool {
        Ok(WAITS.with(|waits| waits.find(number)).is_some_and(LocalWaker::wake))
    }
}

/// The result of a wait: whether it was woken; or nil and the error, which the prelude raises after its clean-up.
pub(crate) struct Parked(Result<bool, ErrorObject>);

impl Results for Parked {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        match &mut self.0 {
            Ok(woken) => woken.push(stack),
            Err(object) => {
                stack.push_nil();
                object.push(stack);
                2
            }
        }
    }
}

native! {
    Park = "park", suspends: true;
    read(stack) -> (f64, &'static str, Option<f64>) {
        let limit = if stack.is_none_or_nil(3) { None } else { Some(stack.number(3)) };
        (stack.number(1), reason(stack.bytes(2)), limit)
    }
    run((number, reason, limit)) -> Parked {
        let at = limit.map(|limit| deadline_after(seconds(limit)));
        let outcome = park_until(reason, at);
        // Whatever ended the wait: the slot is free again, before any other code of the fiber runs.
        WAITS.with(|waits| waits.end(number));
        Ok(Parked(outcome.map(|wakeup| wakeup == Wakeup::Woken).map_err(stopped_object)))
    }
}

native! {
    Sleep = "sleep", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(length) -> () {
        let outcome = if length > 0.0 { sleep(seconds(length)) } else { yield_now() };
        outcome.map_err(stopped)
    }
}

native! {
    SleepUntil = "sleep_until", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(at) -> () {
        // A float that is too large becomes the latest instant; NaN and negative numbers become the first.
        sleep_until(Instant::from_nanos((at * 1e9) as u64)).map_err(stopped)
    }
}

native! {
    Yield = "yield", suspends: true;
    read(_stack) -> () {}
    run(()) -> () { yield_now().map_err(stopped) }
}

native! {
    /// Seconds on the loop's clock.
    Clock = "clock", suspends: false;
    read(_stack) -> () {}
    run(()) -> f64 { Ok(now().as_nanos() as f64 / 1e9) }
}

native! {
    /// Microseconds since 1970, integral.
    NowUs = "now_us", suspends: false;
    read(_stack) -> () {}
    run(()) -> f64 {
        let since = simulation::wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(since.as_micros() as f64)
    }
}

native! {
    NewScope = "new_scope", suspends: false;
    read(_stack) -> () {}
    run(()) -> f64 {
        WAITS.with(|waits| {
            let number = waits.scope_next.get() + 1;
            waits.scope_next.set(number);
            waits.scopes.borrow_mut().insert(number, Rc::new(CancelScope::new()));
            Ok(number as f64)
        })
    }
}

native! {
    CancelScopeOf = "cancel_scope", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> bool {
        Ok(scope_of(number as u64).inspect(|scope| scope.cancel()).is_some())
    }
}

fn scope_of(number: u64) -> Option<Rc<CancelScope>> {
    WAITS.with(|waits| waits.scopes.borrow().get(&number).cloned())
}

/// Calls the function at `function_at` with the values above it, protected, inside `around`; returns its results or
/// raises its error.
///
/// # Safety
/// Called from a C function that Lua runs on `state`; `around` calls its argument once and keeps nothing with a
/// destructor in the caller's frame.
pub(crate) unsafe fn call_around(
    state: *mut ffi::lua_State,
    function_at: c_int,
    around: impl FnOnce(&mut dyn FnMut()),
) -> c_int {
    let mut status = ffi::LUA_OK;
    // SAFETY: the caller's promise. The protected call keeps every Lua error above `around`'s frames.
    unsafe {
        check_native_stack(state);
        Entry::Wrap.push(state);
        ffi::lua_insert(state, function_at);
        let arguments = ffi::lua_gettop(state) - function_at - 1;
        let mut call = || status = ffi::lua_pcall(state, arguments, ffi::LUA_MULTRET, function_at);
        around(&mut call);
        if status != ffi::LUA_OK {
            ffi::lua_error(state);
        }
        ffi::lua_gettop(state) - function_at
    }
}

/// Runs `call` inside `around`. Outside a fiber, in a finalizer, it runs `call` alone: no wait is possible there.
pub(crate) fn in_fiber_inside(around: impl FnOnce(&mut dyn FnMut()), call: &mut dyn FnMut()) {
    if in_fiber() {
        around(call);
    } else {
        call();
    }
}

/// `with_deadline(seconds, fn, ...)`.
unsafe extern "C-unwind" fn with_deadline_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this; only `Copy` values are alive.
    unsafe {
        let length = ffi::luaL_checknumber(state, 1);
        let at = deadline_after(seconds(length));
        call_around(state, 2, |call| {
            in_fiber_inside(|call| with_deadline(at, call), call)
        })
    }
}

/// `shield(fn, ...)`.
unsafe extern "C-unwind" fn shield_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: as above.
    unsafe { call_around(state, 1, |call| in_fiber_inside(|call| shield(call), call)) }
}

/// `in_scope(scope, fn, ...)`: runs the function in a fresh scope, which is removed afterwards.
unsafe extern "C-unwind" fn in_scope_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: as above.
    unsafe {
        let number = ffi::luaL_checknumber(state, 1) as u64;
        call_around(state, 2, |call| {
            match scope_of(number) {
                Some(scope) => in_fiber_inside(|call| scope.enter(call), call),
                None => call(),
            }
            WAITS.with(|waits| waits.scopes.borrow_mut().remove(&number));
        })
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; Prepare, Wake, Park, Sleep, SleepUntil, Yield, Clock, NowUs, NewScope, CancelScopeOf);
    // SAFETY: the table is on top, and errors may be raised.
    unsafe {
        register_raw(stack, "with_deadline", with_deadline_raw);
        register_raw(stack, "shield", shield_raw);
        register_raw(stack, "in_scope", in_scope_raw);
    }
}
