//! The loop: one thread's scheduler.
//!
//! ```text
//!        other threads ──▶ inbox ┐
//!                                ▼
//!   tick:  1 inbox   2 clock, timers   3 fibers, up to a budget   4 end of tick: flush   5 driver: submit, wait
//!             └────────────────┴── make fibers ready ◀────────────────────────────────────────┘
//! ```
//!
//! The state of a loop is in `state.rs`, its owner's interface in `run.rs`, the tick in `tick.rs`. Fibers reach their
//! loop through `seam.rs`. Callbacks (timers, end of tick, driver sinks) run outside fibers and cannot suspend.

mod clock;
mod config;
mod counters;
mod group;
mod handle;
mod histogram;
mod inbox;
mod loans;
mod loop_end;
pub(crate) mod registry;
mod run;
mod run_queue;
pub(crate) mod seam;
mod shared;
mod shutdown_waiters;
mod state;
mod stop;
pub(crate) mod this_loop;
mod tick;
mod tick_end;
mod timer;
mod timing;
mod vitals;

pub use clock::{deadline_after, is_past, now, time_left};
pub use config::{Config, PanicHook, Spin};
pub use counters::Counters;
pub use group::LoopGroup;
pub use handle::{LoopHandle, RemoteJoin};
pub(crate) use histogram::Histogram;
pub(crate) use loans::Loan;
pub use run::Loop;
pub(crate) use shared::{Message, Shared};
pub(crate) use state::{Inner, current_fiber_for_signal, thread_stack_for_signal, with_loop};
pub use stop::StopReport;
pub use tick::Tick;
pub use tick_end::TickEnd;
pub use timer::Timer;
pub(crate) use vitals::{Counted, Vitals};
pub use vitals::{set_timing, timing};
