//! Real-time, stateful network servers on fibers.
//!
//! This crate is what a program adds. It gathers the layers below: fibers and loops, plain `Read` and `Write` sockets
//! that wait without blocking the thread, remote calls in both directions, and (feature `lua`, on by default) Lua
//! programs that do the same in a line.
//!
//! ```
//! use std::io::{Read, Write};
//! use yue::net::{TcpListener, TcpStream};
//!
//! # fn main() -> std::io::Result<()> {
//! yue::Runtime::new()?.run(|| -> std::io::Result<()> {
//!     let listener = TcpListener::bind("127.0.0.1:0")?;
//!     let address = listener.local_addr()?;
//!     let server = yue::spawn(move || -> std::io::Result<()> {
//!         let (mut stream, _) = listener.accept()?;
//!         stream.write_all(b"hello")
//!     });
//!     let mut greeting = String::new();
//!     TcpStream::connect(address)?.read_to_string(&mut greeting)?;
//!     assert_eq!(greeting, "hello");
//!     server.join().unwrap()
//! })
//! # }
//! ```
//!
//! | module | what it has |
//! |---|---|
//! | the root | [`Runtime`], [`spawn`], [`spawn_any`], [`scope`], [`JoinSet`], [`timeout`], [`blocking`], stopping |
//! | [`net`] | TCP, UDP and Unix sockets over `std::io::Read` and `Write` |
//! | [`fs`], [`watch`] | files and directories; being told what happens to them |
//! | [`process`], [`pipe`], [`stdio`] | child processes, pipes, the process's own streams |
//! | [`rpc`] | msgpack-rpc: sessions, listeners, typed clients and servers |
//! | [`sync`], [`select!`] | locks, channels and the like, on one loop or between loops; the first of several |
//! | `tls` | TLS over any stream (feature `tls`) |
//! | [`signal`] | Unix signals on loops |
//! | [`inspect`] | seeing inside: fibers, stacks, counters, the watchdog, the report |
//! | [`scheduler`] | all of fibers and loops |
//! | `lua` | running Lua programs (feature `lua`) |
//! | `cli` | the `yue` command (feature `cli`) |

#![warn(missing_docs)]

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "lua")]
pub mod lua;
mod runtime;
mod system;

pub use runtime::{Runtime, RuntimeBuilder, RuntimeHandle, RuntimeReport, spawn_any};
#[cfg(feature = "tls")]
pub use yue_io::tls;
pub use yue_io::{Choice, fs, net, pipe, process, signal, stdio, watch};
pub use yue_rpc as rpc;
pub use yue_scheduler as scheduler;
pub use yue_scheduler::inspect;
pub use yue_scheduler::this_loop::wait_for_shutdown;
pub use yue_scheduler::{
    BlockingError, Builder, CancelScope, Elapsed, FiberId, JoinError, JoinHandle, JoinSet,
    LoopHandle, Priority, RemoteJoin, Scope, ScopedJoinHandle, Spin, StackClass, StackConfig,
    Stopped, Tick, TryJoinHandle, TryScope, block_on, blocking, blocking_borrowed, cancel,
    is_cancelled, scope, set_priority, shield, sleep, spawn, timeout, try_scope, with_deadline,
    yield_now,
};
pub use yue_scheduler::{fiber_local, select, sync};

/// The book's pages, whose Rust programs are compiled and run as tests.
#[cfg(doctest)]
mod book {
    #[doc = include_str!("../../docs/src/cancellation.md")]
    struct Cancellation;
    #[doc = include_str!("../../docs/src/concurrency.md")]
    struct Concurrency;
    #[doc = include_str!("../../docs/src/from-tokio.md")]
    struct FromTokio;
    #[doc = include_str!("../../README.md")]
    struct Readme;
}
