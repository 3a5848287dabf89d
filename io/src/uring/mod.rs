//! The io_uring driver: submits operations to a ring and receives their completions from it.
//!
//! ```text
//!   core.rs      the driver: submits, waits, hands out completions
//!   accept.rs    accepts connections for a fiber        polls.rs     polls descriptors for a select
//!   slots.rs     maps completions to operations         buffers.rs   receive buffers that the kernel picks from
//!   ring.rs      both queues of the ring                enter.rs     the system call `io_uring_enter`
//!   setup.rs     creates a ring                         features.rs  what a ring may use
//! ```

mod accept;
mod buffers;
mod core;
mod enter;
mod features;
mod polls;
mod ring;
mod setup;
mod slots;

pub(crate) use self::core::Core;
pub(crate) use accept::AcceptOperation;
pub(crate) use buffers::GROUP;
pub(crate) use features::check_settings;
pub(crate) use polls::Poll;
pub use setup::{Unavailable, probe_uring};
pub(crate) use slots::{CompletionOwner, OperationId};
