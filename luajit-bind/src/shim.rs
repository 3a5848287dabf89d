//! The C shim's functions and the memory it shares with Rust (`shim/shim.h`; keep the two in step).
//!
//! Invariant of every call here: it is made on the thread that owns the VM, and the pointers belong to that VM.
//! Functions that may raise a Lua error are marked. They must not be called where a `catch_unwind` lies between the
//! call and the nearest protected call, because a Lua error is a foreign exception to Rust.

use mlua_sys::{lua_CFunction, lua_State};
use std::ffi::{c_char, c_int, c_void};
use std::ptr;

/// A LuaJIT table; only the shim reads its contents.
#[repr(C)]
pub(crate) struct GcTable {
    _opaque: [u8; 0],
}

/// A LuaJIT userdata; only the shim reads its contents.
#[repr(C)]
pub(crate) struct GcUserdata {
    _opaque: [u8; 0],
}

/// The shim's state of one running Lua fiber. It lives on that fiber's native stack.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct FiberState {
    pub root: *mut lua_State,
    pub inside: *mut lua_State,
    pub inside_at: isize,
    pub floor: *mut c_char,
    pub saved_vmstate: i32,
    pub work: *const u8,
    pub work_length: usize,
    pub client: *const u8,
    pub client_length: usize,
    pub mark: usize,
}

impl FiberState {
    pub(crate) fn new(root: *mut lua_State, floor: *mut c_char) -> FiberState {
        FiberState {
            root,
            inside: ptr::null_mut(),
            inside_at: 0,
            floor,
            saved_vmstate: 0,
            work: ptr::null(),
            work_length: 0,
            client: ptr::null(),
            client_length: 0,
            mark: 0,
        }
    }
}

/// One Lua value, flattened for the encoder. `payload` is an `i64`, the bits of an `f64`, or a pointer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub kind: u32,
    pub length: u32,
    pub payload: u64,
}

impl Slot {
    pub(crate) const EMPTY: Slot = Slot {
        kind: kind::NIL,
        length: 0,
        payload: 0,
    };

    pub(crate) fn of_integer(value: i64) -> Slot {
        Slot {
            kind: kind::INTEGER,
            payload: value as u64,
            ..Slot::EMPTY
        }
    }

    pub(crate) fn integer(&self) -> i64 {
        self.payload as i64
    }

    pub(crate) fn number(&self) -> f64 {
        f64::from_bits(self.payload)
    }

    pub(crate) fn pointer<T>(&self) -> *const T {
        ptr::with_exposed_provenance(self.payload as usize)
    }
}

/// [`Slot::kind`].
pub(crate) mod kind {
    pub const NIL: u32 = 0;
    pub const FALSE: u32 = 1;
    pub const TRUE: u32 = 2;
    pub const INTEGER: u32 = 3;
    pub const UNSIGNED: u32 = 4;
    pub const NUMBER: u32 = 5;
    pub const STRING: u32 = 6;
    pub const TABLE: u32 = 7;
    pub const FUNCTION: u32 = 8;
    pub const USERDATA: u32 = 9;
    pub const CDATA: u32 = 10;
    pub const THREAD: u32 = 11;
}

/// The results of [`yue_shim_map_set`].
pub(crate) mod map_set {
    use std::ffi::c_int;

    pub const DONE: c_int = 0;
    pub const BAD_KEY: c_int = 1;
}

/// A table's shape: `sequence` is non-zero if its keys are exactly `1..=count`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub metatable: *const c_void,
    pub count: u32,
    pub sequence: u32,
}

unsafe extern "C" {
    /// For a signal handler: see [`yue_scheduler::inspect::Probe`].
    pub(crate) fn yue_shim_where(context: *mut c_void, text: *mut u8, bytes: usize) -> usize;
    /// For a signal handler: see [`yue_scheduler::inspect::Interruption`].
    pub(crate) fn yue_shim_interrupt(once: usize);
}

unsafe extern "C-unwind" {
    pub(crate) fn yue_shim_may_switch() -> *const c_char;
    pub(crate) fn yue_shim_leave(fiber: *mut FiberState) -> *const c_char;
    pub(crate) fn yue_shim_enter(fiber: *mut FiberState);
    pub(crate) fn yue_shim_end(fiber: *mut FiberState);
    pub(crate) fn yue_shim_inside(
        state: *mut lua_State,
        old: *mut *mut lua_State,
        old_at: *mut isize,
    );
    pub(crate) fn yue_shim_outside(old: *mut lua_State, old_at: isize);
    pub(crate) fn yue_shim_current() -> *mut FiberState;
    pub(crate) fn yue_shim_set_interruption(raise: unsafe extern "C-unwind" fn(*mut lua_State));
    pub(crate) fn yue_shim_mark(mark: usize);
    pub(crate) fn yue_shim_watch_steps(
        state: *mut lua_State,
        every: c_int,
        report: unsafe extern "C" fn(*mut lua_State),
    );

    pub(crate) fn yue_shim_entered() -> usize;

    pub(crate) fn yue_shim_report_steps(state: *mut lua_State);

    pub(crate) fn yue_shim_unwound(state: *mut lua_State);
    pub(crate) fn yue_shim_traceback(fiber: *mut FiberState, text: *mut u8, bytes: usize) -> usize;
    pub(crate) fn yue_shim_work(fiber: *mut FiberState, text: *mut u8, bytes: usize) -> usize;
    pub(crate) fn yue_shim_arguments(
        fiber: *mut FiberState,
        to: *mut lua_State,
        count: c_int,
    ) -> c_int;
    pub(crate) fn yue_shim_calls_of(
        fiber: *mut FiberState,
        to: *mut lua_State,
        function: c_int,
        count: c_int,
    ) -> c_int;
    pub(crate) fn yue_shim_origin(fiber: *mut FiberState, text: *mut u8, bytes: usize) -> usize;
    pub(crate) fn yue_shim_protect(
        state: *mut lua_State,
        f: lua_CFunction,
        argument: *mut c_void,
    ) -> c_int;
    pub(crate) fn yue_shim_in_finalizer(state: *mut lua_State) -> c_int;
    pub(crate) fn yue_shim_gc_stopped(state: *mut lua_State) -> c_int;
    pub(crate) fn yue_shim_main(state: *mut lua_State) -> *mut lua_State;
    pub(crate) fn yue_shim_mark_lendable(state: *mut lua_State);
    pub(crate) fn yue_shim_reset(state: *mut lua_State) -> c_int;
    /// Raises.
    pub(crate) fn yue_shim_reseed(state: *mut lua_State, seed: *const u64) -> c_int;
    /// Raises.
    pub(crate) fn yue_shim_check_stack(state: *mut lua_State);
    pub(crate) fn yue_shim_low_stack() -> c_int;
    /// Raises.
    pub(crate) fn yue_shim_setup(state: *mut lua_State) -> c_int;
    pub(crate) fn yue_shim_slot(state: *mut lua_State, index: c_int, slot: *mut Slot);
    pub(crate) fn yue_shim_table(table: *const GcTable, shape: *mut Shape);
    pub(crate) fn yue_shim_largest_key(table: *const GcTable) -> i64;
    pub(crate) fn yue_shim_item(table: *const GcTable, index: u32, slot: *mut Slot);
    pub(crate) fn yue_shim_pair(
        table: *const GcTable,
        cursor: *mut u32,
        key: *mut Slot,
        value: *mut Slot,
    ) -> c_int;
    pub(crate) fn yue_shim_has_value(table: *const GcTable, object: *const c_void) -> c_int;
    /// Raises.
    pub(crate) fn yue_shim_map_set(state: *mut lua_State, steps: *mut u32) -> c_int;
    /// Raises.
    pub(crate) fn yue_shim_collect_map(
        state: *mut lua_State,
        is_begun: c_int,
        pairs: u32,
        mark: *const c_void,
        steps: *mut u32,
    ) -> c_int;
    /// Raises.
    pub(crate) fn yue_shim_collect_array(state: *mut lua_State, count: u32, mark: *const c_void);
    /// Raises.
    pub(crate) fn yue_shim_append(state: *mut lua_State, length: u32, count: u32);
    pub(crate) fn yue_shim_userdata(
        userdata: *const GcUserdata,
        metatable: *mut *const c_void,
        length: *mut u32,
    ) -> *mut c_void;
    pub(crate) fn yue_shim_push_object(state: *mut lua_State, object: *const c_void, kind: u32);
    /// Raises.
    pub(crate) fn yue_shim_push_int64(state: *mut lua_State, value: i64, unsigned: c_int);
    pub(crate) fn yue_shim_anchor(
        state: *mut lua_State,
        table: *mut GcTable,
        index: u32,
        function: *const c_void,
    ) -> c_int;
    pub(crate) fn yue_shim_copy_anchors(
        state: *mut lua_State,
        from: *const GcTable,
        to: *mut GcTable,
    );
}
