//! The part of the event loop that fibers use. `fiber/` imports from `event_loop/` only what this file names.
//!
//! Fibers and loops need each other: a loop resumes fibers and makes them ready; a fiber parks itself in its loop. The
//! loop in turn imports from `fiber/` only what the table of that folder (`fiber/mod.rs`) names.

/// The clock of the calling thread's loop.
pub(crate) use super::clock::{deadline_after, now};
/// The end of other loops, which joins wait for.
pub(crate) use super::loop_end::wake_at_end_of;
/// The loops of the process by number: sending to one, and whether it has ended.
pub(crate) use super::registry;
/// A request to a loop.
pub(crate) use super::shared::Message;
/// The loop's state: the slab of headers, the run queue, the wheel, the stacks.
pub(crate) use super::state::Inner;
/// The calling thread's loop, and the fiber that it runs.
pub(crate) use super::state::{current_fiber, try_with_loop, with_loop};
