//! Every figure that yue publishes, beside what a user would pick instead (*peers*) and beside the same work with
//! nothing of ours around it (*ceilings*), in one run on one machine.
//!
//! # How a figure comes about
//!
//! ```text
//! yue-figures (parent)                  yue-figures measure … (child, one per figure and round)
//!   for row, for case, for round
//!     for contestant  ── spawn ──────>  warm up, do the fixed work, stop the clock
//!                     <── one JSON ───  { value, extra }
//!   medians, ratios, goals ──> table, JSON
//! ```
//!
//! A round asks each contestant once, so that a disturbance of the machine falls on all alike; a figure is the median
//! over the rounds. Each measurement has a process of its own: no contestant inherits another one's threads, heap or
//! warmed caches, and one that crashes costs its own line and not the table.
//!
//! # Where to look
//!
//! [`rows`] has one file per row of the table, [`ceilings`] the hand-written bare loops, [`load`] the load generators
//! that are the same for every contestant, [`harness`] all that is common. The Lua sides of the rows are in
//! `benches/lua/`.

#![deny(clippy::undocumented_unsafe_blocks)]

pub mod ceilings;
mod cli;
pub mod epoll;
pub mod harness;
pub mod load;
pub mod rows;

pub use cli::main;
