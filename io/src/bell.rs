//! The bell of the io_uring driver: an eventfd that the ring polls.
//!
//! The ring holds an edge-triggered multishot poll on the eventfd, so every write posts a completion. Nobody reads the
//! counter: it would take 2^64 rings to fill. Any thread may ring. The descriptor lives until the last holder drops the
//! bell, so a late ring cannot reach a reused descriptor.

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
