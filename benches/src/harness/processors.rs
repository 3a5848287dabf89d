//! Which processor a side of a measurement runs on.
//!
//! Where two processes talk, the kernel may put both on one processor or on two, and changes its mind; a round trip
//! differs by a factor of ten between the two. So that all contestants are measured alike, the server's side gets the
//! first processor that this process may use, the client's side the second. With one processor there is nothing to do.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A side of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who answers.
    Server,
    /// Who asks.
    Client,
}

/// The processors of the two sides, if there are two.
#[derive(Clone, Copy, Debug)]
pub struct Processors(Option<(usize, usize)>);

impl Processors {
    /// The first two that this process may use. Asked before anything is bound, since that narrows them.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub fn detect() -> io::Result<Processors> {
        // SAFETY: an all-zero set is a valid empty one, and the kernel writes to it within its size.
        let (result, allowed) = unsafe {
            let mut allowed: libc::cpu_set_t = std::mem::zeroed();
            let result = libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut allowed);
            (result, allowed)
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: reads a bit of a set that was written above.
        let is_allowed = |processor: &usize| unsafe { libc::CPU_ISSET(*processor, &allowed) };
        let mut processors = (0..libc::CPU_SETSIZE as usize).filter(is_allowed);
        Ok(Processors(processors.next().zip(processors.next())))
    }

    /// Whether there are two.
    pub fn are_two(self) -> bool {
        self.0.is_some()
    }

    /// Binds the calling thread, and what it starts from now on.
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

    /// Makes a command's process bound from its start.
    pub fn bind_command(self, command: &mut Command, side: Side) {
        // SAFETY: the closure runs in the child between fork and exec; it makes one system call, allocates nothing.
        unsafe { command.pre_exec(move || self.bind(side)) };
    }
}

fn set(processor: usize) -> io::Result<()> {
    // SAFETY: an all-zero set is a valid empty one; the calls write to it and read it within its size.
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
