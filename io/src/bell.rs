//! The bell of the io_uring driver: an eventfd that the ring polls.
//!
//! The ring holds a multishot poll on it, edge-triggered: every write posts a completion, and nobody ever reads the
//! counter, which would take 2^64 rings to fill. Any thread rings; the descriptor lives until the last holder of the
//! bell is gone, so that a late ring goes to nobody rather than to a stranger's descriptor.

use crate::sys;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use yue_scheduler::Bell;

pub(crate) struct EventBell {
    fd: OwnedFd,
}

impl EventBell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(EventBell {
            fd: sys::event_fd()?,
        })
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Bell for EventBell {
    fn ring(&self) {
        sys::ring_event_fd(&self.fd);
    }
}
