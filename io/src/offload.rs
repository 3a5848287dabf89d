//! What the kernel offers only as a call that blocks: made on a thread of the blocking pool, while the fiber parks.

use crate::descriptor::not_stopped;
use std::io;
use yue_scheduler::{blocking_borrowed, in_fiber, this_loop};

/// Makes a call that blocks: from a fiber on the pool, on a plain thread here. Once it has begun it is waited for, so
/// that what really happened is what is reported, also to a fiber that is told to stop.
pub(crate) fn offload<T: Send>(
    reason: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    if in_fiber() {
        not_stopped(reason)?;
        return blocking_borrowed(work)?;
    }
    if this_loop::exists() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    work()
}
