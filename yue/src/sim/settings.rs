//! Settings from outside a program: the variables of a replay, and the schedule that a search tries.

use super::{Failure, Report, Schedule, ScheduleError};
use std::cell::RefCell;
use std::path::Path;

/// The variable that selects the seeds of a test: `17`, or `10..20`, or `10..20/2` for every second one.
pub(super) const SEED: &str = "YUE_SIM_SEED";

/// The variable with the faults of all runs, in place of those that programs give.
pub(super) const FAULTS: &str = "YUE_SIM_FAULTS";

/// The variable with the file into which the trace is written.
pub(super) const TRACE: &str = "YUE_SIM_TRACE";

/// The variable with the file into which the timeline is written.
pub(super) const TIMELINE: &str = "YUE_SIM_TIMELINE";

thread_local! {
    /// The state of the search that runs on this thread: the schedule that it tries, if not the program's own.
    static SEARCH: RefCell<Option<Option<Schedule>>> = const { RefCell::new(None) };
}

/// Calls `run` as a part of a search: simulations write no files, and have `faults`, if given, in place of their own.
pub(super) fn in_search<R>(faults: Option<Schedule>, run: impl FnOnce() -> R) -> R {
    struct Restore(Option<Option<Schedule>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            SEARCH.set(self.0.take());
        }
    }
    let _restore = Restore(SEARCH.replace(Some(faults)));
    run()
}

/// The faults that replace those of the program.
///
/// # Errors
/// When the variable cannot be parsed.
pub(super) fn replaced_faults() -> Result<Option<Schedule>, ScheduleError> {
    if let Some(Some(faults)) = SEARCH.with_borrow(Clone::clone) {
        return Ok(Some(faults));
    }
    faults_from_environment()
}

pub(super) fn faults_from_environment() -> Result<Option<Schedule>, ScheduleError> {
    let text = std::env::var(FAULTS).ok();
    text.map(|text| text.parse()).transpose()
}

/// Writes the files that the variables ask for, after a run outside a search.
pub(super) fn write_files_of_run(outcome: &Result<Report, Failure>) {
    if SEARCH.with_borrow(Option::is_none) {
        let report = outcome.as_ref().unwrap_or_else(|failure| &failure.report);
        for line in write_files(report) {
            yue_scheduler::log(yue_scheduler::LogLevel::Info, format_args!("{line}"));
        }
    }
}

/// Writes the files that the variables ask for, and returns a line about each.
pub(super) fn write_files(report: &Report) -> Vec<String> {
    let wanted = |variable: &str| std::env::var_os(variable).filter(|file| !file.is_empty());
    let mut lines = Vec::new();
    let mut write = |what: &str, file: &Path, text: String| {
        lines.push(match std::fs::write(file, text) {
            Ok(()) => format!("{what}: {}", file.display()),
            Err(error) => format!("cannot write {}: {error}", file.display()),
        });
    };
    if let Some(file) = wanted(TRACE) {
        write("the trace", file.as_ref(), report.trace_text());
    }
    if let Some(file) = wanted(TIMELINE) {
        write("the timeline", file.as_ref(), report.timeline());
    }
    lines
}
