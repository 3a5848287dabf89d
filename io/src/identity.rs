//! The identity of an open descriptor, and the directions of its readiness: what both drivers know of a descriptor.

use std::os::fd::RawFd;

/// A descriptor, with an id that belongs to one open descriptor only. The kernel reuses the number, never the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) fd: RawFd,
    pub(crate) id: u64,
}

/// The direction of a transfer, or of the readiness that a fiber waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Direction {
    /// Returns the event of `poll(2)` that announces readiness in this direction.
    pub(crate) fn poll_events(self) -> i16 {
        match self {
            Direction::Read => libc::POLLIN,
            Direction::Write => libc::POLLOUT,
        }
    }
}
