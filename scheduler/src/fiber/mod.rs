//! Fibers: spawning, joining, parking, cancelling.

mod block_on;
mod cancel;
mod current;
mod frames;
mod guarded;
mod header;
mod hook;
mod id;
mod join;
mod join_set;
mod locals;
mod log_hook;
mod park;
mod priority;
mod root;
mod scope;
mod signal;
mod sleep;
#[cfg(feature = "tracing")]
pub(crate) mod spans;
mod spawn;
mod switch;
mod switch_hook;
mod waker;

pub use block_on::block_on;
pub use cancel::{
    CancelScope, Elapsed, Stopped, cancel, current_deadline, is_cancelled, shield, timeout,
    unrefused, with_deadline,
};
pub(crate) use cancel::{cancel_header, cancel_on};
pub use current::{context, current_id, current_name, in_fiber, set_context, stack_limit};
pub(crate) use guarded::guarded;
pub(crate) use header::{CANCELLED, CHUNK, Extra, HIGH, Header, LOW, Slab, State, WOKEN};
pub(crate) use hook::{OnDrop, descriptions, origin_of, record};
pub use hook::{may_suspend, no_suspend, with_switch_hook};
pub use id::FiberId;
pub(crate) use join::record_panic;
pub use join::{JoinError, JoinHandle};
pub use join_set::JoinSet;
pub use locals::{FiberLocal, NotInFiber};
pub use log_hook::set_log_hook;
pub use park::{
    Wakeup, park, park_uninterruptible, park_unrefused, park_until, prepare_park, refuse_call,
    yield_if_allowed, yield_now,
};
pub(crate) use park::{begin_wait_number, check_stopped};
pub use priority::{Priority, set_priority};
pub use scope::{Scope, ScopedJoinHandle, TryJoinHandle, TryScope, scope, try_scope};
pub use signal::Signal;
pub use sleep::{sleep, sleep_until};
pub use spawn::{Builder, spawn};
pub(crate) use switch::FRAMES as SWITCH_FRAMES;
pub use switch_hook::SwitchHook;
pub(crate) use waker::wake_in;
pub use waker::{LocalWaker, RemoteWaker};
