//! Our functions in other people's hands: which of them a connection's peer may call, by id, and how often it holds
//! each.
//!
//! Each time a function crosses, its count goes up ([`Exports::give`], from a `RefTable`); the peer's releases bring it
//! down; at zero the function is let go, and all end with the connection. An anchored function cannot be collected, so
//! its address names it for as long as it has an entry: giving it again finds the same id.
//!
//! `give` is called in the middle of encoding, where nothing may be allocated in Lua. So the anchors live in the array
//! part of one table that is made with room to spare; when it is full, `give` refuses, the message fails to encode, and
//! the caller makes room ([`Exports::make_room`]) and encodes again. `make_room` before each message with functions in
//! it is cheap: it does something only when less than half is free.

use crate::codec::{Object, ObjectKind};
use crate::shim::{self, GcTable, kind};
use crate::stack::Stack;
use crate::vm::Vm;
use mlua_sys as ffi;
use std::collections::HashMap;
use std::ffi::c_int;
use std::{fmt, ptr};

/// How many functions one peer may hold unless configured otherwise; each is an array slot and an entry here.
pub const EXPORTS_MAX: usize = 65_536;

/// Room for this many anchors to begin with.
const ROOM_FIRST: u32 = 32;

#[derive(Clone, Copy)]
struct Entry {
    object: *const std::ffi::c_void,
    count: u64,
}

/// The functions that one peer holds. It belongs to one VM, on its thread.
pub struct Exports {
    vm: Vm,
    /// The anchor table: `array[id]` is the function. Held by the registry under `reference`.
    table: *mut GcTable,
    reference: c_int,
    room: u32,
    max: usize,
    /// Index = id; id 0 is never used.
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    by_object: HashMap<usize, u32>,
}

impl Exports {
    /// No functions yet. Nothing is made in Lua before the first `make_room`.
    pub fn new(vm: &Vm) -> Exports {
        Exports::with_max(vm, EXPORTS_MAX)
    }

    /// As `new`, with another limit.
    pub fn with_max(vm: &Vm, max: usize) -> Exports {
        Exports {
            vm: vm.clone(),
            table: ptr::null_mut(),
            reference: 0,
            room: 0,
            max,
            entries: vec![None],
            free: Vec::new(),
            by_object: HashMap::new(),
        }
    }

    /// How many functions the peer holds.
    pub fn len(&self) -> usize {
        self.by_object.len()
    }

    /// Whether the peer holds none.
    pub fn is_empty(&self) -> bool {
        self.by_object.is_empty()
    }

    /// Sees to it that at least `free` more functions can be given. False if that is more than the limit, or there is
    /// no memory.
    pub fn make_room(&mut self, free: u32) -> bool {
        let wanted = self.entries.len() - self.free.len() + free as usize;
        if wanted <= self.room as usize {
            return true;
        }
        if wanted > self.max {
            return false;
        }
        let room = u32::try_from(wanted.next_power_of_two())
            .unwrap_or(u32::MAX)
            .max(ROOM_FIRST);
        let old = self.table;
        let made = self.vm.protect(|stack| {
            let state = stack.raw();
            // SAFETY: protected. The new table holds all that the old one did before it takes its place.
            unsafe {
                ffi::lua_createtable(state, room as c_int, 0);
                let table = ffi::lua_topointer(state, -1).cast_mut().cast::<GcTable>();
                if !old.is_null() {
                    shim::yue_shim_copy_anchors(state, old, table);
                }
                (table, ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX))
            }
        });
        let Ok((table, reference)) = made else {
            return false;
        };
        self.let_go();
        (self.table, self.reference, self.room) = (table, reference, room);
        true
    }

    /// The function crosses to the peer (once more). Its id, or `None` if it is no function or there is no room.
    /// Calls no Lua.
    pub fn give(&mut self, object: Object) -> Option<u64> {
        if object.kind != ObjectKind::Function {
            return None;
        }
        if let Some(&id) = self.by_object.get(&object.object.addr()) {
            self.entries[id as usize].as_mut()?.count += 1;
            return Some(id.into());
        }
        let id = self
            .free
            .last()
            .copied()
            .or_else(|| u32::try_from(self.entries.len()).ok())?;
        if id >= self.room {
            return None;
        }
        // SAFETY: the table is anchored in the registry; the object is alive, for it is being encoded.
        if unsafe { shim::yue_shim_anchor(self.vm.main_state(), self.table, id, object.object) }
            == 0
        {
            return None;
        }
        let entry = Some(Entry {
            object: object.object,
            count: 1,
        });
        if self.free.pop().is_some() {
            self.entries[id as usize] = entry;
        } else {
            self.entries.push(entry);
        }
        self.by_object.insert(object.object.addr(), id);
        Some(id.into())
    }

    /// The peer released `count` crossings of `id` (or a message was not sent). Unknown ids and too large counts are
    /// the peer's affair: they do nothing more than end the entry. Calls no Lua.
    pub fn release(&mut self, id: u64, count: u64) {
        let Some(index) = usize::try_from(id)
            .ok()
            .filter(|index| *index < self.entries.len())
        else {
            return;
        };
        let Some(entry) = &mut self.entries[index] else {
            return;
        };
        entry.count = entry.count.saturating_sub(count);
        if entry.count > 0 {
            return;
        }
        let object = entry.object;
        self.entries[index] = None;
        self.by_object.remove(&object.addr());
        // The index fits: ids are given out as u32.
        self.free.push(index as u32);
        // SAFETY: the table is anchored; clearing a slot allocates nothing.
        unsafe {
            shim::yue_shim_anchor(self.vm.main_state(), self.table, index as u32, ptr::null())
        };
    }

    /// Pushes the function with this id, if the peer holds it. Needs one free slot; raises nothing.
    pub fn push(&self, stack: Stack<'_>, id: u64) -> bool {
        let entry = usize::try_from(id)
            .ok()
            .and_then(|index| self.entries.get(index).copied().flatten());
        let Some(entry) = entry else { return false };
        // SAFETY: the function is anchored, and so alive; the stack belongs to the same VM.
        unsafe { shim::yue_shim_push_object(stack.raw(), entry.object, kind::FUNCTION) };
        true
    }

    fn let_go(&mut self) {
        if !self.table.is_null() {
            // SAFETY: the reference is ours; setting an existing registry slot allocates nothing and runs no code.
            unsafe {
                ffi::luaL_unref(self.vm.main_state(), ffi::LUA_REGISTRYINDEX, self.reference)
            };
            self.table = ptr::null_mut();
        }
    }
}

impl Drop for Exports {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl fmt::Debug for Exports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exports")
            .field("held", &self.len())
            .field("room", &self.room)
            .finish_non_exhaustive()
    }
}
