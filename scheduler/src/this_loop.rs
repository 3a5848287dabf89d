//! The loop that the calling thread runs.
//!
//! All of these functions panic on a thread that runs no loop, unless they say otherwise.

pub use crate::event_loop::this_loop::{
    at_tick_end, clear_idle_hook, counters, exists, group, handle, id, request_shutdown,
    set_idle_hook, shutdown_requested, wait_for_shutdown, with_driver,
};
pub use crate::inspect::this_loop::{
    PAGE_SLOTS, backtrace, context_of, copied_stack, describe, fiber, fiber_ids, fibers,
    fibers_of_pages, hook_record,
};
