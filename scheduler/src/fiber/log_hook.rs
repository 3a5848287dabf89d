//! The embedder's hook for log lines, which may not suspend the fiber that logs.

use super::hook::no_suspend;
use crate::logging::{LogHook, install};

/// Passes all further log lines of the process to `hook`, in place of standard error: those of the scheduler and of the
/// layers above it. A second call replaces the hook.
///
/// With the crate `log`, whose dispatcher then decides about levels and destinations:
///
/// ```
/// yue_scheduler::set_log_hook(|level, text| {
///     let level = level.as_str().parse().unwrap_or(log::Level::Info);
///     log::log!(target: "yue", level, "{text}");
/// });
/// ```
///
/// With `tracing`:
///
/// ```
/// use yue_scheduler::LogLevel;
///
/// yue_scheduler::set_log_hook(|level, text| match level {
///     LogLevel::Error => tracing::error!(target: "yue", "{text}"),
///     LogLevel::Warn => tracing::warn!(target: "yue", "{text}"),
///     LogLevel::Info => tracing::info!(target: "yue", "{text}"),
///     LogLevel::Debug => tracing::debug!(target: "yue", "{text}"),
/// });
/// ```
///
/// The thread that logs calls the hook: any thread, in a fiber or outside, perhaps while it unwinds or just before the
/// process aborts. So the hook must be quick, and must not suspend: that panics. Lines that the hook logs itself, and
/// the line at which it panics, go to standard error.
pub fn set_log_hook(hook: LogHook) {
    install(hook, |hook, level, text| no_suspend(|| hook(level, text)));
}
