//! Ceilings: the same work without yue, handwritten and as fast as we can make it.
//!
//! If a peer beats a ceiling in the same run, the ceiling is wrong. The table says so, and it must be fixed before
//! anything is published.

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
