//! The state of signals that the command starts with.

use yue_io::signal::{Signal, is_ignored};
use yue_scheduler::SignalSet;

/// Undoes what a careless parent left behind: blocked signals, which children would inherit, and an ignored SIGCHLD,
/// which discards their exit codes. Other ignored signals remain ignored.
pub(super) fn reset() {
    if is_ignored(Signal::CHLD) {
        // SAFETY: the default action runs no code of the program.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    }
    SignalSet::of([]).set_mask();
}
