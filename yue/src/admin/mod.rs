//! The admin endpoint: a Unix socket through which tools look into a running program, even while its loops are busy.
//!
//! ```text
//!   $XDG_RUNTIME_DIR/yue/PID.sock   mode 0600, in a folder of this user; other users' connections are closed
//!
//!   thread `yue admin`   waits in poll, without a loop ── first connection ──▶ a loop of its own serves
//!                                                                              │  asks, with a time limit
//!   the program's loops   each answers between two fibers; one that is held ◀──┘
//!                         is reported as such, from what it has published
//! ```
//!
//! It speaks msgpack-rpc like every listener, so `yue.open('unix:///run/user/1000/yue/4711.sock').loops()` is all that
//! a tool in Lua needs. Methods (`$yue/describe` lists them):
//!
//! | method | answer |
//! |---|---|
//! | `info()` | process, version, script, arguments, start time, driver, numbers of loops and fibers, log level |
//! | `loops()` | each loop: busy and idle time, fibers, timers, last tick, whether it answers, how long it is held |
//! | `fibers{loop=, offset=, limit=, stacks=}` | a page of the fibers: name, state, wait, its duration, origin, stack |
//! | `waits{loop=}` | the fibers in groups of the same wait and origin, those that have waited longest first |
//! | `connections{loop=, offset=, limit=}` | a page of the connections: addresses, state, calls, bytes, age |
//! | `listeners()` | address, connections, requests, memory |
//! | `metrics()` | all counters, as [`prometheus`] returns them |
//! | `log_level([level])` | the minimum level of the log, which `level` changes |
//!
//! Only `log_level` changes anything. Nothing is evaluated. Pages, groups and texts have limits, so an answer about a
//! million fibers is bounded.
//!
//! The `yue` command opens the endpoint by itself; a Rust program calls [`listen`]. A loop that the program ticks
//! itself ([`Runtime::tick`](crate::Runtime::tick)) answers when it is ticked.

mod ask;
mod connections;
mod endpoint;
mod fibers;
mod folder;
mod loops;
mod processes;
mod prometheus;
mod service;
mod waits;

pub use endpoint::{Endpoint, Options, listen};
pub use processes::{Process, processes};
pub use prometheus::prometheus;

pub(crate) use endpoint::remove_files;

/// Bytes of a name, an address or a location that are shown.
const TEXT_MAX: usize = 200;

/// Cuts a text after so many bytes, at the end of a character.
fn cut(text: &str, max: usize) -> String {
    match text.len() > max {
        true => format!("{}…", &text[..text.floor_char_boundary(max)]),
        false => text.to_owned(),
    }
}
