//! The signals that request the end of a program: SIGINT and SIGTERM.

use std::io;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use yue_io::signal::{self, Signal, Subscription};

const SIGNALS: [Signal; 2] = [Signal::INT, Signal::TERM];

/// Signals that follow the first one within this time are the same request: GNU `timeout`, for example, signals the
/// process and then its group. A person cannot press Ctrl-C twice that fast on purpose.
const SAME_REQUEST: Duration = Duration::from_millis(500);

/// Calls `on_signal` with each signal that requests the end, on a separate thread, so that busy loops do not delay it.
///
/// # Errors
/// The system's.
pub(crate) fn subscribe(
    on_signal: impl Fn(Signal) + Send + Sync + 'static,
) -> io::Result<Subscription> {
    // A signal that the parent ignores must stay ignored: a shell ignores some for its background jobs.
    let signals = SIGNALS
        .into_iter()
        .filter(|signal| !signal::is_ignored(*signal));
    let signals: Vec<Signal> = signals.collect();
    signal::subscribe_off_loop(&signals, on_signal)
}

/// Tells a second request from the rest of the first one.
#[derive(Debug, Default)]
pub(crate) struct EndRequests {
    first: OnceLock<Instant>,
}

impl EndRequests {
    /// Records a signal; returns whether it insists on the end: whether it follows the first one after a while.
    pub(crate) fn insist(&self) -> bool {
        self.first.get_or_init(Instant::now).elapsed() >= SAME_REQUEST
    }
}
