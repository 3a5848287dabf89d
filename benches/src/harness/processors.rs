//! The processor on which each side of a measurement runs.
//!
//! If two processes talk, the kernel may put both on one processor or on two, and may change that; a round trip differs
//! by a factor of ten between the two. To treat all contestants alike, the server's side gets the first processor that
//! this process may use, and the client's side the second. With one processor there is no choice.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A side of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The side that answers.
    Server,
    /// The side that asks.
    Client,
}

/// The processors of the two sides, if there are at least two.
#[derive(Clone, Copy, Debug)]
pub struct Processors(Option<(usize, usize)>);

impl Processors {
    /// Returns the first two processors that this process may use. Call it before binding anything, because binding
    /// narrows them.
    ///
    /// # Errors
    ///
    /// When the kernel does not report them.
    pub fn detect() -> io::Result<Processors> {
        // SAFETY: a zeroed set is a valid empty set, and the kernel writes to it within its size.
        let (result, allowed) = unsafe {
            let mut allowed: libc::cpu_set_t = std::mem::zeroed();
            let result = libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut allowed);
            (result, allowed)
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: reads a bit of the set written above.
        let is_allowed = |processor: &usize| unsafe { libc::CPU_ISSET(*processor, &allowed) };
        let mut processors = (0..libc::CPU_SETSIZE as usize).filter(is_allowed);
        Ok(Processors(processors.next().zip(processors.next())))
    }

    /// Whether there are two processors.
    pub fn are_two(self) -> bool {
        self.0.is_some()
    }

    /// Binds the calling thread, and all it starts from now on.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn bind(self, side: Side) -> io::Result<()> {
        match (self.0, side) {
            (None, _) => Ok(()),
            (Some((first, _)), Side::Server) => set(first),
            (Some((_, second)), Side::Client) => set(second),
        }
    }

    /// Binds a command's process from its start.
    pub fn bind_command(self, command: &mut Command, side: Side) {
        // SAFETY: the closure runs in the child between fork and exec; it makes one system call and allocates nothing.
        unsafe { command.pre_exec(move || self.bind(side)) };
    }
}

fn set(processor: usize) -> io::Result<()> {
    // SAFETY: a zeroed set is a valid empty set; the calls write to it and read it within its size.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
