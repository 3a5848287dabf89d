//! The processors that threads may run on.

use std::fmt;
use std::io;
use std::mem;

/// The processors that the calling thread may run on.
///
/// # Errors
/// The system's.
pub(crate) fn processors() -> io::Result<Vec<usize>> {
    let set = affinity()?;
    // SAFETY: `cpu` stays below the number of bits of the set.
    let allowed = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &set) };
    Ok((0..libc::CPU_SETSIZE as usize).filter(allowed).collect())
}

fn affinity() -> io::Result<libc::cpu_set_t> {
    // SAFETY: a set of bits is valid as zeros, and the call writes no more than its size.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        match libc::sched_getaffinity(0, size_of_val(&set), &mut set) {
            0 => Ok(set),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn set_affinity(set: &libc::cpu_set_t) -> io::Result<()> {
    // SAFETY: the set is valid for its size; 0 is the calling thread.
    match unsafe { libc::sched_setaffinity(0, size_of_val(set), set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Restricts the calling thread to one processor while it lives.
pub(crate) struct Pinned {
    before: libc::cpu_set_t,
}

impl Pinned {
    /// Pins the calling thread.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn to(cpu: usize) -> io::Result<Pinned> {
        let before = affinity()?;
        // SAFETY: as in `affinity`; `cpu` is one that `processors` returned.
        let set = unsafe {
            let mut set: libc::cpu_set_t = mem::zeroed();
            libc::CPU_SET(cpu, &mut set);
            set
        };
        set_affinity(&set)?;
        Ok(Pinned { before })
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").finish_non_exhaustive()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // An error is possible only if processors were taken from the process meanwhile; then the affinity stays as it
        // is.
        let _ = set_affinity(&self.before);
    }
}
