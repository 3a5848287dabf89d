//! The peer's functions that Lua holds. A callable userdata in Lua names one by its connection and its slot there.

use yue_rpc::session::ImportedReference;

/// The contents of a callable userdata. Plain data: the GC frees it without running a destructor.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct RemoteFunction {
    pub(crate) connection: u32,
    pub(crate) slot: u32,
}

/// The slot of a function whose finalizer has run. A finalizer of the program may still have kept the function.
pub(crate) const FINALIZED: u32 = u32::MAX;

/// The functions of the peer that Lua holds, by slot.
#[derive(Default)]
pub(crate) struct Imports {
    slots: Vec<Option<ImportedReference>>,
    free: Vec<u32>,
}

impl Imports {
    pub(crate) fn insert(&mut self, reference: ImportedReference) -> u32 {
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(reference);
                slot
            }
            None => {
                self.slots.push(Some(reference));
                self.slots.len() as u32 - 1
            }
        }
    }

    pub(crate) fn get(&self, slot: u32) -> Option<ImportedReference> {
        self.slots.get(slot as usize)?.clone()
    }

    pub(crate) fn take(&mut self, slot: u32) -> Option<ImportedReference> {
        let reference = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(reference)
    }
}
