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
//! | `wait_graph{loop=}` | the fibers that wait for fibers, locks, futures and calls, and what ends each wait |
//! | `connections{loop=, offset=, limit=}` | a page of the connections: addresses, state, calls, bytes, age |
//! | `listeners()` | address, connections, requests, memory |
//! | `calls{loop=, limit=}` | the served requests by method, the slowest, and those that run |
//! | `trace{token=, method=, slower_than_seconds=, errors=, limit=}` | the requests that ended since the last call |
//! | `metrics()` | all counters, as [`prometheus`] returns them |
//! | `log_level([level])` | the minimum level of the log, which `level` changes |
//! | `eval{code=, loop=, session=, width=}` | runs code in a fiber of the loop: its outcome, as text |
//! | `eval_output{session=}`, `eval_interrupt{session=}` | output of running code, as it comes; ends the code |
//! | `eval_complete{text=, loop=, session=}` | the names that may follow the text |
//!
//! `calls` and `trace` turn the recording of requests on, until 10 s after the last question. Only `log_level` and
//! `eval` change anything else. `eval` needs an [`Evaluator`], which programs in Lua have; each evaluation is written
//! to the program's log. Pages, groups and texts have limits, so an answer about a million fibers is bounded.
//!
//! With [`Options::page`] the endpoint's thread serves a page of the program for browsers, too (feature `http`). It has
//! a key, which is printed when it starts; see the book's chapter on inspection.
//!
//! The `yue` command opens the endpoint by itself; a Rust program calls [`listen`]. A loop that the program ticks
//! itself ([`Runtime::tick`](crate::Runtime::tick)) answers when it is ticked.

mod ask;
mod calls;
mod connections;
mod endpoint;
mod evaluate;
mod fibers;
mod folder;
pub mod graph;
mod loops;
#[cfg(feature = "http")]
mod page;
mod processes;
mod prometheus;
mod service;
mod traces;
mod wait_graph;
mod waits;

pub use endpoint::{Endpoint, Options, listen};
pub use evaluate::{Completion, Completions, Evaluation, Evaluator, Outcome, Output};
#[cfg(feature = "http")]
pub use page::page_address;
pub use processes::{Process, processes};
pub use prometheus::prometheus;

pub(crate) use endpoint::remove_files;

/// Bytes of a name, an address or a location that are shown.
const TEXT_MAX: usize = 200;

/// Identifies a call among those of all local processes: by its link, the end of the link that calls, and its number.
pub(crate) fn call_key(link: u64, by_client: bool, msgid: u32) -> String {
    let end = if by_client { 'c' } else { 's' };
    format!("{link:016x}{end}{msgid}")
}

/// Cuts a text after so many bytes, at the end of a character.
fn cut(text: &str, max: usize) -> String {
    match text.len() > max {
        true => format!("{}…", &text[..text.floor_char_boundary(max)]),
        false => text.to_owned(),
    }
}
