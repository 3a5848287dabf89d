//! Stack unwinding: from a copy of a stack to the addresses of the calls on it.
//!
//! ```text
//!   a parked fiber    its loop copies its stack, from the saved stack pointer up to the root     ┐
//!   a running fiber   a signal handler on its thread does the same with the interrupted registers ├─▶ StackCopy
//!                                                                                                 ┘      │
//!   addresses of calls ◀── framehop, with the unwind tables of the program and its libraries ◀───────────┘
//! ```
//!
//! Only the copying must happen where the fiber is: it allocates nothing on the fiber's stack, changes nothing, and
//! takes a microsecond. The tables are those that the compiler writes for panics (`.eh_frame`), so unwinding works in
//! release builds, without frame pointers. The walk ends at code without tables (such as that of a just-in-time
//! compiler), unless that code keeps frame pointers.

use crate::lock::lock;
use crate::stack::Registers;
use framehop::{
    CacheNative, ExplicitModuleSectionInfo, FrameAddress, MayAllocateDuringUnwind, Module,
    UnwindRegsNative, Unwinder, UnwinderNative,
};
use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::slice;
use std::sync::Mutex;

/// Most bytes of a stack that are copied, from its innermost frame on: some hundred frames.
pub(crate) const COPY_MAX: usize = 64 << 10;

/// Most frames that a walk returns.
const FRAMES_MAX: usize = 256;

#[cfg(target_arch = "x86_64")]
fn to_unwind(registers: Registers) -> UnwindRegsNative {
    UnwindRegsNative::new(registers.instruction, registers.stack, registers.frame)
}

#[cfg(target_arch = "aarch64")]
fn to_unwind(registers: Registers) -> UnwindRegsNative {
    UnwindRegsNative::new(registers.link, registers.stack, registers.frame)
}

/// A snapshot of a stack: its registers and contents.
#[derive(Debug, Clone)]
pub(crate) struct StackCopy {
    pub(crate) registers: Registers,
    pub(crate) bytes: Box<[u8]>,
    /// Whether the stack was larger than what was copied.
    pub(crate) cut: bool,
}

impl StackCopy {
    /// Copies a stack from its innermost frame to `end`.
    ///
    /// # Safety
    /// The memory from `registers.stack` to `end` belongs to that stack and does not change meanwhile.
    pub(crate) unsafe fn take(registers: Registers, end: usize) -> StackCopy {
        let start = registers.stack as usize;
        let bytes = end.saturating_sub(start);
        // SAFETY: as the caller promises.
        let stack = unsafe { slice::from_raw_parts(start as *const u8, bytes.min(COPY_MAX)) };
        StackCopy {
            registers,
            bytes: stack.into(),
            cut: bytes > COPY_MAX,
        }
    }

    fn word(&self, address: u64) -> Result<u64, ()> {
        let offset = address.checked_sub(self.registers.stack).ok_or(())?;
        let offset = usize::try_from(offset).map_err(drop)?;
        let end = offset.checked_add(size_of::<u64>()).ok_or(())?;
        let word = self.bytes.get(offset..end).ok_or(())?;
        Ok(u64::from_ne_bytes(word.try_into().map_err(drop)?))
    }

    /// Returns the addresses of the calls that were being executed, innermost first. They are the addresses of the call
    /// instructions, not of the instructions behind them.
    pub(crate) fn addresses(&self) -> Vec<usize> {
        let mut tables = lock(&TABLES);
        let generation = generation();
        if tables
            .as_ref()
            .is_none_or(|tables| tables.generation != generation)
        {
            *tables = Some(Tables::read(generation));
        }
        match &mut *tables {
            Some(tables) => tables.walk(self),
            None => Vec::new(),
        }
    }
}

static TABLES: Mutex<Option<Tables>> = Mutex::new(None);

/// The unwind tables of the program and its libraries.
struct Tables {
    /// Identifies the set of loaded libraries that they belong to.
    generation: (u64, u64),
    unwinder: UnwinderNative<&'static [u8], MayAllocateDuringUnwind>,
    cache: CacheNative<MayAllocateDuringUnwind>,
}

impl Tables {
    fn read(generation: (u64, u64)) -> Tables {
        let mut unwinder = UnwinderNative::new();
        each_object(|object| {
            if let Some(module) = object.module() {
                unwinder.add_module(module);
            }
        });
        Tables {
            generation,
            unwinder,
            cache: CacheNative::new(),
        }
    }

    fn walk(&mut self, copy: &StackCopy) -> Vec<usize> {
        let mut read = |address| copy.word(address);
        let mut registers = to_unwind(copy.registers);
        let instruction = copy.registers.instruction;
        let mut frame = match FrameAddress::from_return_address(instruction) {
            Some(frame) if copy.registers.after_call => frame,
            _ => FrameAddress::from_instruction_pointer(instruction),
        };
        let mut addresses = vec![frame.address_for_lookup() as usize];
        while addresses.len() < FRAMES_MAX {
            let caller =
                self.unwinder
                    .unwind_frame(frame, &mut registers, &mut self.cache, &mut read);
            // An error also ends the stack: the copy ends there.
            let Some(caller) = caller
                .ok()
                .flatten()
                .and_then(FrameAddress::from_return_address)
            else {
                break;
            };
            addresses.push(caller.address_for_lookup() as usize);
            frame = caller;
        }
        addresses
    }
}

/// One loaded ELF object: the program, or a library.
struct Object<'a> {
    base: usize,
    segments: &'a [libc::Elf64_Phdr],
}

/// Encodings of pointers, from the Linux Standard Base ("DWARF Exception Header Encoding").
const RELATIVE_TO_ITSELF_I32: u8 = 0x1b;

impl Object<'_> {
    fn range(&self, segment: &libc::Elf64_Phdr) -> Range<usize> {
        let start = self.base + segment.p_vaddr as usize;
        start..start + segment.p_memsz as usize
    }

    fn loaded(&self) -> impl Iterator<Item = Range<usize>> {
        let loaded = self.segments.iter().filter(|s| s.p_type == libc::PT_LOAD);
        loaded.map(|segment| self.range(segment))
    }

    /// Returns the object's data for the unwinder; `None` if it has no tables.
    fn module(&self) -> Option<Module<&'static [u8]>> {
        let index = self
            .segments
            .iter()
            .find(|s| s.p_type == libc::PT_GNU_EH_FRAME)?;
        let index = self.range(index);
        // The header is: version 1, three encodings, the address of the table.
        // SAFETY: the loader mapped the segment, readable, and it stays while the object is loaded.
        let header = unsafe { slice::from_raw_parts(index.start as *const u8, index.len()) };
        let (1, RELATIVE_TO_ITSELF_I32) = (*header.first()?, *header.get(1)?) else {
            return None;
        };
        let offset = i32::from_ne_bytes(header.get(4..8)?.try_into().ok()?);
        let table = (index.start + 4).checked_add_signed(offset as isize)?;
        let table_end = self.loaded().find(|range| range.contains(&table))?.end;
        // SAFETY: as above. The table ends within its segment, with an empty entry.
        let frames = unsafe { slice::from_raw_parts(table as *const u8, table_end - table) };
        let start = self.loaded().map(|range| range.start).min()?;
        let end = self.loaded().map(|range| range.end).max()?;
        let relative =
            |range: Range<usize>| (range.start - self.base) as u64..(range.end - self.base) as u64;
        let sections = ExplicitModuleSectionInfo {
            eh_frame_svma: Some(relative(table..table_end)),
            eh_frame: Some(frames),
            eh_frame_hdr_svma: Some(relative(index)),
            eh_frame_hdr: Some(header),
            ..ExplicitModuleSectionInfo::default()
        };
        let (range, base) = (start as u64..end as u64, self.base as u64);
        Some(Module::new(String::new(), range, base, sections))
    }
}

/// Calls `visit` for each loaded object.
fn each_object<F: FnMut(&Object<'_>)>(mut visit: F) {
    unsafe extern "C" fn visit_object<F: FnMut(&Object<'_>)>(
        info: *mut libc::dl_phdr_info,
        _bytes: usize,
        visit: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader passes a valid description, and the closure of the call below. `visit` does not unwind: it
        // only reads tables.
        unsafe {
            let (info, visit) = (&*info, &mut *visit.cast::<F>());
            if !info.dlpi_phdr.is_null() {
                visit(&Object {
                    base: info.dlpi_addr as usize,
                    segments: slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()),
                });
            }
        }
        0
    }
    // SAFETY: the callback gets the closure that it expects.
    unsafe { libc::dl_iterate_phdr(Some(visit_object::<F>), (&raw mut visit).cast()) };
}

/// Returns a number pair that changes whenever a library is loaded or unloaded.
fn generation() -> (u64, u64) {
    unsafe extern "C" fn read(
        info: *mut libc::dl_phdr_info,
        _bytes: usize,
        found: *mut c_void,
    ) -> c_int {
        // SAFETY: as in `each_object`. Both counts are the same for every object, so the first is enough.
        unsafe { *found.cast::<(u64, u64)>() = ((*info).dlpi_adds, (*info).dlpi_subs) };
        1
    }
    let mut found = (0, 0);
    // SAFETY: `read` gets a pointer to the pair that it expects.
    unsafe { libc::dl_iterate_phdr(Some(read), (&raw mut found).cast()) };
    found
}
