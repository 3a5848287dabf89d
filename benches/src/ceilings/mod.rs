//! The same work with nothing of ours around it, written by hand and as fast as we can make it.
//!
//! A ceiling that a peer beats in the same run is no ceiling: the table says so, and it is repaired before anything
//! is published.

#[cfg(feature = "peers")]
pub mod coroutine;
pub mod epoll_echo;
pub mod idle_pages;
pub mod kernel_timer;
pub mod linked_list;
pub mod lua_yield;
pub mod ping_pong;
pub mod ring;
pub mod uring_echo;
