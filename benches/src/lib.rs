//! Measures every figure that yue publishes in one run on one machine, beside the alternatives that a user might choose
//! (*peers*) and the same work without a runtime (*ceilings*).
//!
//! # How a figure is measured
//!
//! ```text
//! yue-figures (parent)                  yue-figures measure … (child, one per figure and round)
//!   for row, for case, for round
//!     for contestant  ── spawn ──────>  warm up, do the fixed work, stop the clock
//!                     <── one JSON ───  { value, extra }
//!   medians, ratios, goals ──> table, JSON
//! ```
//!
//! A round measures each contestant once, so that a disturbance of the machine affects all alike. A figure is the
//! median over the rounds. Each measurement runs in its own process: no contestant inherits another's threads, heap or
//! warm caches, and a crash costs one line and not the table.
//!
//! # Where to look
//!
//! [`rows`] has one file per row of the table, [`ceilings`] the handwritten bare loops, [`load`] the load generators
//! that are the same for every contestant, and [`harness`] the common parts. The Lua parts of the rows are in
//! `benches/lua/`.

#![deny(clippy::undocumented_unsafe_blocks)]

pub mod ceilings;
mod cli;
pub mod epoll;
pub mod harness;
pub mod load;
pub mod rows;

pub use cli::main;
