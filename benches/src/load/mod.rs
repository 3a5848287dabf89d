//! Load generators: the same code for every contestant.
//!
//! Each is one thread around one epoll, with nothing of ours and of no peer in it, and runs in another process than the
//! server that it loads.

pub mod churn;
pub mod closed;
pub mod open;
pub mod protocol;
