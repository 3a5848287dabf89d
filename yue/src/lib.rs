//! Real-time, stateful network servers on fibers.
//!
//! This crate is the one that programs depend on. It gathers the layers below: fibers and loops, plain `Read` and
//! `Write` sockets that wait without blocking the thread, remote calls in both directions, and (feature `lua`)
//! Lua programs that do the same in a line.
//!
//! # Ten minutes
//!
//! **A fiber is a function that may wait.** It has its own stack, so it may wait anywhere: in a loop, in a method of a
//! trait, in a closure that a library calls. While it waits, its loop runs the other fibers.
//!
//! ```
//! use std::time::Duration;
//!
//! # fn main() -> std::io::Result<()> {
//! yue::Runtime::new()?.run(|| {
//!     let fiber = yue::spawn(|| {
//!         yue::sleep(Duration::from_millis(1)).unwrap();
//!         6 * 7
//!     });
//!     assert_eq!(fiber.join().unwrap(), 42);
//! });
//! # Ok(())
//! # }
//! ```
//!
//! **I/O looks like the standard library's.** [`net`], [`fs`], [`process`] have its types and names. Streams are plain
//! [`Read`](std::io::Read) and [`Write`](std::io::Write), so any library over those works unchanged.
//!
//! ```
//! use std::io::{BufRead, BufReader, Write};
//! use yue::net::{TcpListener, TcpStream};
//!
//! # fn main() -> std::io::Result<()> {
//! yue::Runtime::new()?.run(|| -> std::io::Result<()> {
//!     let listener = TcpListener::bind("127.0.0.1:0")?;
//!     let address = listener.local_addr()?;
//!     let server = yue::spawn(move || -> std::io::Result<()> {
//!         let (stream, _) = listener.accept()?;
//!         let mut name = String::new();
//!         BufReader::new(&stream).read_line(&mut name)?;
//!         write!(&stream, "hello {name}")
//!     });
//!     let mut stream = TcpStream::connect(address)?;
//!     stream.write_all(b"frodo\n")?;
//!     assert_eq!(std::io::read_to_string(stream)?, "hello frodo\n");
//!     server.join().unwrap()
//! })
//! # }
//! ```
//!
//! **Fibers of a loop share its thread**, and no other fiber runs between two lines that do not wait. So they share
//! data in an `Rc`, a `Cell`, a `RefCell`, without locks. A fiber that computes for long keeps the others waiting: move
//! such work to [`blocking`] or to another loop, or call [`yield_now`] in between.
//!
//! ```
//! use std::{cell::Cell, rc::Rc};
//!
//! # fn main() -> std::io::Result<()> {
//! yue::Runtime::new()?.run(|| {
//!     let visits = Rc::new(Cell::new(0));
//!     let fibers: Vec<_> = (0..1000)
//!         .map(|_| {
//!             let visits = visits.clone();
//!             yue::spawn(move || visits.set(visits.get() + 1))
//!         })
//!         .collect();
//!     fibers.into_iter().for_each(|fiber| fiber.join().unwrap());
//!     assert_eq!(visits.get(), 1000);
//! });
//! # Ok(())
//! # }
//! ```
//!
//! **Fibers that belong together end together.** [`scope`] starts fibers that may borrow, and returns only when they
//! have ended; in a [`try_scope`] the first error cancels the others. A [`JoinSet`] is for fibers that come and go.
//! [`select!`] waits for the first of several events: channels, joins, timers and readable sockets.
//!
//! ```
//! use std::time::Duration;
//! use yue::sync::local::channel;
//!
//! # fn main() -> std::io::Result<()> {
//! yue::Runtime::new()?.run(|| {
//!     let words = ["tea".to_owned(), "cake".to_owned()];
//!     let (orders, orders_in) = channel(1);
//!     let orders = &orders;
//!     yue::scope(|s| {
//!         for word in &words {
//!             s.spawn(move || orders.send(word.as_str()).unwrap());
//!         }
//!         for expected in ["tea", "cake"] {
//!             yue::select! {
//!                 order = recv(orders_in) => assert_eq!(order, Ok(expected)),
//!                 _ = after(Duration::from_secs(10)) => panic!("nobody came"),
//!             }
//!             .unwrap();
//!         }
//!     });
//! });
//! # Ok(())
//! # }
//! ```
//!
//! **A fiber is cancelled cooperatively; it is never torn down.** After [`cancel`], or when a deadline has passed, each
//! call that waits returns an error ([`Stopped`], or an [`io::Error`](std::io::Error) that holds it), and `?` passes it
//! on. Clean-up that must wait runs in [`shield`].
//!
//! ```
//! use std::io::Read;
//! use std::time::Duration;
//! use yue::net::UnixStream;
//!
//! # fn main() -> std::io::Result<()> {
//! yue::Runtime::new()?.run(|| -> std::io::Result<()> {
//!     let (mut stream, _silent) = UnixStream::pair()?;
//!     let outcome = yue::timeout(Duration::from_millis(1), || stream.read(&mut [0; 16]));
//!     assert_eq!(outcome.err(), Some(yue::Elapsed));
//!     Ok(())
//! })
//! # }
//! ```
//!
//! **More processors need more loops.** Each loop is a thread; fibers stay on theirs. Work crosses as closures: to a
//! given loop with [`LoopHandle::spawn`], to whichever has time with [`spawn_any`]. [`sync`] has channels and locks
//! that work between loops, and with plain threads.
//!
//! ```
//! # fn main() -> std::io::Result<()> {
//! let sum = yue::Runtime::builder().loops(2).build()?.run(|| {
//!     let parts: Vec<_> = (0..10u64).map(|n| yue::spawn_any(move || n * n)).collect();
//!     parts.into_iter().map(|part| part.join().unwrap()).sum::<u64>()
//! });
//! assert_eq!(sum, 285);
//! # Ok(())
//! # }
//! ```
//!
//! **A remote call looks like a call**, and the server may call back in the middle of it. Types travel by serde. It
//! works equally with Lua programs and with msgpack-rpc clients in any language.
//!
//! ```
//! use yue::rpc::typed::{Client, Server, peer};
//!
//! # fn main() -> std::io::Result<()> {
//! yue::Runtime::new()?.run(|| {
//!     let listener = Server::new()
//!         .handler("greet", |()| {
//!             let name: String = peer().ok_or("no peer")?.call("name", ())?; // asks the caller
//!             Ok(format!("hello {name}"))
//!         })
//!         .listen("tcp://127.0.0.1:0")
//!         .unwrap();
//!     let us = Server::new().handler("name", |()| Ok("frodo"));
//!     let address = listener.address().to_string();
//!     let server = Client::open_with(&address, us, Default::default()).unwrap();
//!     assert_eq!(server.call::<_, String>("greet", ()).unwrap(), "hello frodo");
//!     listener.close();
//! });
//! # Ok(())
//! # }
//! ```
//!
//! **A program that hangs can be inspected.** [`inspect::report_on`]`(SIGQUIT)` prints every fiber with its wait and
//! its stack; [`inspect::watch_loops`] names the fiber that blocks a loop; [`inspect::metrics_text`] has the numbers.
//!
//! # Where to look
//!
//! | module | contents |
//! |---|---|
//! | the root | [`Runtime`], [`spawn`], [`spawn_any`], [`scope`], [`JoinSet`], [`timeout`], [`blocking`], stopping |
//! | [`net`] | TCP, UDP and Unix sockets over `std::io::Read` and `Write` |
//! | [`fs`], [`inotify`] | files and directories; notification of changes |
//! | [`process`], [`pipe`], [`stdio`] | child processes, pipes, the process's own streams |
//! | [`rpc`] | msgpack-rpc: sessions, listeners, typed clients and servers; features `ws` and `http` |
//! | [`sync`], [`select!`] | locks, channels and the like, on one loop or between loops; the first of several events |
//! | `tls` | TLS over any stream (feature `tls`, which [`rpc`] needs for `tls://`) |
//! | [`signal`] | Unix signals on loops |
//! | [`inspect`] | inspection: fibers, stacks, counters, the watchdog, the report |
//! | [`admin`] | the same from outside: a Unix socket for tools, which answers even while the loops are busy |
//! | [`scheduler`] | the whole API of fibers and loops |
//! | `lua` | running Lua programs (feature `lua`) |
//!
//! With the feature `tracing`, the spans of the `tracing` crate that a fiber has entered follow it ([`scheduler`]).

#![warn(missing_docs)]

pub mod admin;
#[cfg(feature = "lua")]
pub mod lua;
// Leases, hosts and containers are for Lua programs.
#[cfg_attr(not(feature = "lua"), allow(dead_code))]
pub mod nalloc;
mod runtime;
pub mod sim;

pub use runtime::{Runtime, RuntimeBuilder, RuntimeHandle, RuntimeReport, spawn_any};
// Inlined, so that the documentation reads as that of one library.
#[cfg(feature = "tls")]
#[doc(inline)]
pub use yue_io::tls;
#[doc(inline)]
pub use yue_io::{
    Choice, ReadinessBranch, UnknownDriver, fs, inotify, net, pipe, process, signal, stdio,
};
#[doc(inline)]
pub use yue_rpc as rpc;
pub use yue_scheduler as scheduler;
#[doc(inline)]
pub use yue_scheduler::inspect;
#[doc(inline)]
pub use yue_scheduler::this_loop::wait_for_shutdown;
#[doc(inline)]
pub use yue_scheduler::{
    BlockingError, Builder, CancelScope, Elapsed, FiberId, JoinError, JoinHandle, JoinSet,
    LogLevel, LoopHandle, Priority, RemoteJoin, Scope, ScopedJoinHandle, Spin, StackClass,
    StackConfig, Stopped, Tick, TryJoinHandle, TryScope, block_on, blocking, blocking_borrowed,
    cancel, is_cancelled, scope, set_log_hook, set_priority, shield, sleep, spawn, timeout,
    try_scope, with_deadline, yield_now,
};
#[doc(inline)]
pub use yue_scheduler::{fiber_local, select, sync};

/// The README, whose example is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
