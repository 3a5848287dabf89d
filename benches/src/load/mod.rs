//! Load generators, the same code for every contestant.
//!
//! Each generator is one thread around one epoll, without code of yue or of a peer. It runs in a separate process from
//! the server that it loads.

pub mod churn;
pub mod closed;
pub mod open;
pub mod protocol;
