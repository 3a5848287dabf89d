//! Memory that all threads of the process see: the natives under `yue.shared`.
//!
//! A structure's memory is allocated once, zeroed, and kept until the end of the process: C pointers to it may be
//! anywhere. It is found by its name once its creator has initialized it; until then others wait.

use crate::lua::host::errors::{error, stopped};
use crate::lua::native::{native, register};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Mutex;
use yue_luajit::{Error, Stack, may_suspend};
use yue_rpc::ErrorKind;
use yue_scheduler::simulation::PerHost;
use yue_scheduler::{RemoteWaker, lock, park, prepare_park};

/// Structures begin at a cache line, so that two of them never share one.
const ALIGNMENT: usize = 64;

/// The memory of a structure.
struct Struct {
    declaration: Vec<u8>,
    size: usize,
    /// The address, exposed to C.
    address: usize,
    /// `None`: it is initialized. Otherwise those that wait for that.
    waiting: Option<Vec<RemoteWaker>>,
}

impl Struct {
    fn new(declaration: &[u8], size: usize) -> Result<Struct, Error> {
        let no_memory = || {
            let text = format!("there is no memory for a shared struct of {size} bytes");
            error(ErrorKind::Runtime, text)
        };
        let layout = layout(size).ok_or_else(no_memory)?;
        // SAFETY: the size is not 0.
        let memory = unsafe { alloc_zeroed(layout) };
        if memory.is_null() {
            return Err(no_memory());
        }
        Ok(Struct {
            declaration: declaration.to_vec(),
            size,
            address: memory.expose_provenance(),
            waiting: Some(Vec::new()),
        })
    }
}

/// A structure is dropped when it was never initialized, so that only its creator has seen the address, and with a
/// simulated host, whose VMs have been closed.
impl Drop for Struct {
    fn drop(&mut self) {
        if let Some(layout) = layout(self.size) {
            let memory = std::ptr::with_exposed_provenance_mut(self.address);
            // SAFETY: allocated with this layout, by `Struct::new`; it is not in the table of a process that runs.
            unsafe { dealloc(memory, layout) };
        }
    }
}

fn layout(size: usize) -> Option<Layout> {
    let layout = Layout::from_size_align(size, ALIGNMENT).ok()?;
    (size > 0).then_some(layout)
}

type Structs = HashMap<Vec<u8>, Struct>;

static STRUCTS: PerHost<Mutex<Structs>> = PerHost::new(Mutex::default);

/// The step of a fiber that looks for a structure.
enum Step<T> {
    Done(T),
    Wait,
}

/// Tries `step` until it need not wait for the structure's creator.
fn until_initialized<T>(
    mut step: impl FnMut(&mut Structs) -> Result<Step<T>, Error>,
) -> Result<T, Error> {
    loop {
        let outcome = step(&mut lock(&STRUCTS.get()))?;
        match outcome {
            Step::Done(value) => return Ok(value),
            Step::Wait => park("another thread to initialize a shared struct").map_err(stopped)?,
        }
    }
}

/// Begins a wait for the structure; returns false if it is initialized.
fn waits_for(structure: &mut Struct) -> Result<bool, Error> {
    let Some(waiting) = &mut structure.waiting else {
        return Ok(false);
    };
    may_suspend()?;
    waiting.push(prepare_park().remote());
    Ok(true)
}

native! {
    /// `shared_begin(name, declaration, size)`: the address, and whether the caller has to initialize the memory and
    /// then call `shared_end`.
    SharedBegin = "shared_begin", suspends: false;
    read(stack) -> (&'a [u8], &'a [u8], usize) { (stack.bytes(1), stack.bytes(2), stack.number(3) as usize) }
    run((name, declaration, size)) -> (f64, bool) {
        until_initialized(|structs| {
            let structure = match structs.entry(name.to_vec()) {
                Entry::Vacant(slot) => {
                    let structure = slot.insert(Struct::new(declaration, size)?);
                    return Ok(Step::Done((structure.address as f64, true)));
                }
                Entry::Occupied(slot) => slot.into_mut(),
            };
            if structure.declaration != declaration || structure.size != size {
                let text = format!(
                    "the shared struct {} exists with another declaration: {}",
                    String::from_utf8_lossy(name),
                    String::from_utf8_lossy(&structure.declaration)
                );
                return Err(error(ErrorKind::Argument, text));
            }
            Ok(match waits_for(structure)? {
                true => Step::Wait,
                false => Step::Done((structure.address as f64, false)),
            })
        })
    }
}

native! {
    /// `shared_end(name, ok)`: the memory is initialized; or that failed, and the structure is removed.
    SharedEnd = "shared_end", suspends: false;
    read(stack) -> (&'a [u8], bool) { (stack.bytes(1), stack.boolean(2)) }
    run((name, is_initialized)) -> () {
        let all = STRUCTS.get();
        let mut structs = lock(&all);
        let Some(structure) = structs.get_mut(name) else { return Ok(()) };
        let waiting = structure.waiting.take();
        if !is_initialized {
            structs.remove(name);
        }
        drop(structs);
        waiting.into_iter().flatten().for_each(RemoteWaker::wake);
        Ok(())
    }
}

native! {
    /// `shared_find(name)`: the address and the declaration; nil if there is no such structure.
    SharedFind = "shared_find", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(name) -> Option<(f64, Vec<u8>)> {
        until_initialized(|structs| {
            let Some(structure) = structs.get_mut(name) else {
                return Ok(Step::Done(None));
            };
            Ok(match waits_for(structure)? {
                true => Step::Wait,
                false => Step::Done(Some((structure.address as f64, structure.declaration.clone()))),
            })
        })
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; SharedBegin, SharedEnd, SharedFind);
}
