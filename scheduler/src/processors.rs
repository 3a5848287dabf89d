//! The processors that threads of the blocking pool may run on.

use std::sync::OnceLock;

/// The processors that the process could use when its first loop was created, before threads were pinned. A pool thread
/// must not inherit the single processor of the loop that happened to start it.
static PROCESSORS: OnceLock<Option<libc::cpu_set_t>> = OnceLock::new();

/// Records which processors the pool's threads may use, unless it was recorded before.
pub(crate) fn record() {
    PROCESSORS.get_or_init(|| {
        // SAFETY: a set of bits is valid as zeros, and the call writes no more than its size.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            let answer = libc::sched_getaffinity(0, size_of_val(&set), &mut set);
            (answer == 0).then_some(set)
        }
    });
}

/// Allows the calling thread to run on all of them.
pub(crate) fn use_all() {
    if let Some(Some(set)) = PROCESSORS.get() {
        // SAFETY: the set is valid for its size; 0 is the calling thread. If it fails, the thread keeps its processors.
        unsafe { libc::sched_setaffinity(0, size_of_val(set), set) };
    }
}
