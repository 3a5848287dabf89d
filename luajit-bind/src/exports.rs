//! This side's functions that a peer holds: keeps them alive, and finds them again.
//!
//! Each function that a connection's peer holds has an anchor: a slot of a Lua table. An anchored function cannot be
//! collected, so its address identifies it, and exporting it again finds the same slot. The layer above counts how
//! often the peer holds it and decides when it can be released, and then calls [`Exports::release`].
//!
//! [`Exports::anchor`] is called in the middle of encoding, where nothing may be allocated in Lua. So the anchors lie
//! in the array part of a table that was made in advance. When it is full, the message fails to encode, and the caller
//! makes a larger one ([`Exports::grow`]) and encodes again. To make it, the collector may run, and with it finalizers
//! that call back here: so nothing is borrowed meanwhile.

use crate::codec::{Object, ObjectKind};
use crate::shim::{self, GcTable, kind};
use crate::stack::Stack;
use crate::vm::Vm;
use mlua_sys as ffi;
use slab::Slab;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::{fmt, ptr};

/// The initial room for anchors.
const ROOM_FIRST: u32 = 32;

/// The maximum room: LuaJIT's arrays have 2^27 slots.
const ROOM_MAX: u32 = 1 << 26;

/// A table of anchors, held by the registry until it is dropped.
struct Anchors {
    vm: Vm,
    table: *mut GcTable,
    reference: c_int,
    room: u32,
}

impl Anchors {
    /// Creates a table; may run the collector. `None` if there is no memory.
    fn new(vm: &Vm, room: u32) -> Option<Anchors> {
        let made = vm.protect(|stack| {
            let state = stack.raw();
            // SAFETY: protected; the table is anchored before anything else can collect it.
            unsafe {
                ffi::lua_createtable(state, room as c_int, 0);
                let table = ffi::lua_topointer(state, -1).cast_mut().cast::<GcTable>();
                (table, ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX))
            }
        });
        let (table, reference) = made.ok()?;
        Some(Anchors {
            vm: vm.clone(),
            table,
            reference,
            room,
        })
    }

    /// Sets or clears (null) a slot. Returns false if there is no such slot.
    fn set(&self, slot: u32, function: *const c_void) -> bool {
        // SAFETY: the table is alive, because the registry holds it; nothing is allocated.
        unsafe { shim::yue_shim_anchor(self.vm.main_state(), self.table, slot, function) != 0 }
    }
}

impl Drop for Anchors {
    fn drop(&mut self) {
        // SAFETY: the reference belongs to `self`; setting an existing registry slot allocates nothing and runs no
        // code.
        unsafe { ffi::luaL_unref(self.vm.main_state(), ffi::LUA_REGISTRYINDEX, self.reference) }
    }
}

/// The functions that one peer holds. It belongs to one VM and its thread.
pub struct Exports {
    vm: Vm,
    anchors: Option<Anchors>,
    /// The function of slot `n` has the key `n - 1`: a Lua array begins at 1.
    functions: Slab<*const c_void>,
    by_object: HashMap<usize, u32>,
}

impl Exports {
    /// Starts without functions. Nothing is made in Lua before the first `grow`.
    pub fn new(vm: &Vm) -> Exports {
        Exports {
            vm: vm.clone(),
            anchors: None,
            functions: Slab::new(),
            by_object: HashMap::new(),
        }
    }

    /// The number of anchored functions.
    pub fn len(&self) -> usize {
        self.by_object.len()
    }

    /// Whether no function is anchored.
    pub fn is_empty(&self) -> bool {
        self.by_object.is_empty()
    }

    fn room(&self) -> u32 {
        self.anchors.as_ref().map_or(0, |anchors| anchors.room)
    }

    /// Makes room for twice as many functions. The collector may run, so `exports` must not be borrowed. Returns false
    /// if there is no memory, or the room is at its maximum.
    pub fn grow(exports: &RefCell<Exports>) -> bool {
        let (vm, room) = {
            let exports = exports.borrow();
            (exports.vm.clone(), exports.room())
        };
        let larger = (room * 2).max(ROOM_FIRST);
        if larger > ROOM_MAX {
            return false;
        }
        let Some(anchors) = Anchors::new(&vm, larger) else {
            return false;
        };
        let mut exports = exports.borrow_mut();
        // A finalizer may have made as much room meanwhile; then this table is dropped.
        if exports.room() < larger {
            if let Some(old) = &exports.anchors {
                // SAFETY: both tables are alive, because the registry holds them.
                unsafe {
                    shim::yue_shim_copy_anchors(vm.main_state(), old.table, anchors.table);
                }
            }
            exports.anchors = Some(anchors);
        }
        true
    }

    /// Anchors a function, if it is not anchored yet. Returns its slot, and whether it is new; `None` if there is no
    /// room, or the object is not a function. Calls no Lua.
    pub fn anchor(&mut self, object: Object) -> Option<(u32, bool)> {
        if object.kind != ObjectKind::Function {
            return None;
        }
        if let Some(&slot) = self.by_object.get(&object.object.addr()) {
            return Some((slot, false));
        }
        let entry = self.functions.vacant_entry();
        let slot = u32::try_from(entry.key() + 1).ok()?;
        // The function is alive, because it is being encoded.
        if !self.anchors.as_ref()?.set(slot, object.object) {
            return None;
        }
        entry.insert(object.object);
        let before = self.by_object.insert(object.object.addr(), slot);
        debug_assert!(before.is_none(), "a function with two anchors");
        self.check();
        Some((slot, true))
    }

    /// Releases the function in this slot. Does nothing if there is none. Calls no Lua.
    pub fn release(&mut self, slot: u32) {
        let removed = key_of(slot).and_then(|key| self.functions.try_remove(key));
        let Some(function) = removed else {
            return;
        };
        let removed = self.by_object.remove(&function.addr());
        debug_assert_eq!(removed, Some(slot), "a function anchored elsewhere");
        // Only now may the collector free the function: before, its address identified it here.
        if let Some(anchors) = &self.anchors {
            anchors.set(slot, ptr::null());
        }
        self.check();
    }

    /// Both tables have the same functions, and there is an anchor for each.
    fn check(&self) {
        debug_assert_eq!(self.by_object.len(), self.functions.len());
        debug_assert!(self.functions.len() <= self.room() as usize);
    }

    /// Pushes the function in this slot, if there is one. Needs one free slot of the stack; raises nothing.
    pub fn push(&self, stack: Stack<'_>, slot: u32) -> bool {
        let Some(function) = key_of(slot).and_then(|key| self.functions.get(key)) else {
            return false;
        };
        // SAFETY: the function is anchored, and so alive; the stack belongs to the same VM.
        unsafe { shim::yue_shim_push_object(stack.raw(), *function, kind::FUNCTION) };
        true
    }
}

/// The key of a slot. `None` for slot 0, which is never used.
fn key_of(slot: u32) -> Option<usize> {
    (slot as usize).checked_sub(1)
}

impl fmt::Debug for Exports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exports")
            .field("held", &self.len())
            .field("room", &self.room())
            .finish_non_exhaustive()
    }
}
