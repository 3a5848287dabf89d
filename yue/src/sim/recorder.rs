//! The recorder: what a run leaves behind, for its report. It stops at the moment of the failure, so that the end of
//! the hosts is not taken for part of the story.

use super::{Cause, Line, Record, Schedule, Scheduled};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use yue_io::simulation as network;
use yue_scheduler::{Instant, lock, simulation};

/// The host to which a mark of the whole system belongs.
pub(super) const NO_HOST: u32 = u32::MAX;

/// More notes than anybody reads; later ones are dropped.
const MOST_NOTES: usize = 100_000;

/// More unread failures than anybody reads; later ones are dropped.
#[cfg(feature = "lua")]
const MOST_UNREAD: usize = 1_000;

/// Something beside the network's records: a fault, a note of a program, the failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    /// The virtual time.
    pub(super) at: Instant,
    /// The number of network records before it.
    pub(super) records: usize,
    pub(super) kind: MarkKind,
    /// The thing that a fault changes, such as `link`: the next mark of the same hosts and subject ends it.
    pub(super) subject: &'static str,
    /// The hosts that it concerns: one or two.
    pub(super) hosts: Vec<u32>,
    pub(super) text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MarkKind {
    /// A fault begins, and lasts.
    FaultBegins,
    /// A fault ends.
    FaultEnds,
    /// A fault of one instant.
    Instant,
    /// A note of a program.
    Note,
    /// The failure of the run.
    Failure,
}

#[derive(Default)]
pub(super) struct Recorder(Mutex<State>);

#[derive(Default)]
struct State {
    began: Option<Instant>,
    marks: Vec<Mark>,
    output: Vec<Line>,
    /// The failures of Lua fibers that nobody has read yet, by their numbers.
    unread: BTreeMap<u64, Line>,
    #[cfg(feature = "lua")]
    last_unread: u64,
    notes: usize,
    hosts: Vec<String>,
    schedule: Schedule,
    allowed: BTreeSet<String>,
    cause: Option<Cause>,
    recorded: Option<Recorded>,
}

/// All that was recorded.
#[derive(Debug, Clone)]
pub(super) struct Recorded {
    pub(super) began: Instant,
    pub(super) hosts: Vec<String>,
    pub(super) schedule: Schedule,
    pub(super) elapsed: Duration,
    pub(super) trace: Vec<Record>,
    pub(super) output: Vec<Line>,
    pub(super) unread: Vec<Line>,
    pub(super) marks: Vec<Mark>,
    /// The hash of all choices until then.
    pub(super) digest: u64,
}

impl Default for Recorded {
    fn default() -> Recorded {
        Recorded {
            began: Instant::from_nanos(0),
            hosts: Vec::new(),
            schedule: Schedule::new(),
            elapsed: Duration::ZERO,
            trace: Vec::new(),
            output: Vec::new(),
            unread: Vec::new(),
            marks: Vec::new(),
            digest: 0,
        }
    }
}

/// Whether the last run of the process has failed. A search has one run at a time.
static HAS_FAILED: AtomicBool = AtomicBool::new(false);

pub(super) fn has_failed() -> bool {
    HAS_FAILED.load(Ordering::Relaxed)
}

/// The recorder of the simulation to which a thread belongs.
#[derive(Default)]
struct Current(Option<Arc<Recorder>>);

/// Writes a line into the trace of the simulation to which the calling thread belongs, with the virtual time and the
/// host. It does nothing elsewhere, so a program may keep its notes.
///
/// ```
/// use yue::sim::{Sim, note};
///
/// let report = Sim::new(1).run(|_| note("paid 100"))?;
/// assert!(report.trace_text().contains("scenario: paid 100"));
/// # Ok::<(), yue::sim::Failure>(())
/// ```
pub fn note(text: impl Into<String>) {
    if !simulation::is_on() {
        return;
    }
    let host = simulation::host();
    if let Some(recorder) = simulation::layer(|current: &mut Current| current.0.clone()) {
        recorder.mark(MarkKind::Note, "", &[host], text.into());
    }
}

/// The virtual time since the beginning of the run to which the calling thread belongs.
#[cfg(feature = "lua")]
pub(crate) fn elapsed() -> Duration {
    let recorder = simulation::layer(|current: &mut Current| current.0.clone());
    recorder.map_or(Duration::ZERO, |recorder| recorder.elapsed())
}

/// Notes that a fiber of the calling thread's host has failed and nobody waits for its result. Returns the failure's
/// number, for [`forget_unread`].
#[cfg(feature = "lua")]
pub(crate) fn note_unread(text: String) -> u64 {
    let Some(recorder) = simulation::layer(|current: &mut Current| current.0.clone()) else {
        return 0;
    };
    let (at, host) = (recorder.elapsed(), simulation::host());
    let mut state = lock(&recorder.0);
    state.last_unread += 1;
    let number = state.last_unread;
    if state.recorded.is_none() && state.unread.len() < MOST_UNREAD {
        let host = state.hosts.get(host as usize).cloned().unwrap_or_default();
        state.unread.insert(number, Line { at, host, text });
    }
    number
}

/// Notes that somebody has read the failure of a fiber.
#[cfg(feature = "lua")]
pub(crate) fn forget_unread(number: u64) {
    if let Some(recorder) = simulation::layer(|current: &mut Current| current.0.clone()) {
        lock(&recorder.0).unread.remove(&number);
    }
}

/// Fails the run at this instant because of the program of the calling thread's host. Returns false if that may fail:
/// then the caller ends it.
#[cfg(feature = "lua")]
pub(crate) fn fail_program(text: String) -> bool {
    let Some(recorder) = simulation::layer(|current: &mut Current| current.0.clone()) else {
        simulation::stop(&text);
        return true;
    };
    let number = simulation::host();
    let host = lock(&recorder.0).hosts.get(number as usize).cloned();
    match host {
        Some(host) if number != 0 => {
            if recorder.allows_failure(&host) {
                return false;
            }
            simulation::stop(&text);
            recorder.fail(|_| Cause::Raised { host, text }, number);
        }
        _ => recorder.fail_scenario(text),
    }
    true
}

impl Recorder {
    /// Begins to record the simulation of the calling thread.
    pub(super) fn begin(self: &Arc<Self>) {
        HAS_FAILED.store(false, Ordering::Relaxed);
        lock(&self.0).began = Some(simulation::now());
        network::keep_trace();
        let this = self.clone();
        simulation::layer(|current: &mut Current| current.0 = Some(this));
    }

    /// Notes the name of the next host, in the order of their numbers.
    pub(super) fn add_host(&self, name: &str) {
        lock(&self.0).hosts.push(name.to_owned());
    }

    /// Notes faults that will happen.
    pub(super) fn add_faults(&self, faults: &[Scheduled]) {
        lock(&self.0).schedule.extend(faults.iter().cloned());
    }

    /// Allows a host's program to fail: it ends then, and the run continues.
    pub(super) fn allow_failure(&self, host: &str) {
        lock(&self.0).allowed.insert(host.to_owned());
    }

    pub(super) fn allows_failure(&self, host: &str) -> bool {
        lock(&self.0).allowed.contains(host)
    }

    /// Fails the run because of its scenario.
    pub(super) fn fail_scenario(&self, text: String) {
        simulation::stop(&text);
        self.fail(|_| Cause::Scenario(text), 0);
    }

    pub(super) fn mark(&self, kind: MarkKind, subject: &'static str, hosts: &[u32], text: String) {
        let (at, records) = (simulation::now(), network::trace_length());
        let mut state = lock(&self.0);
        state.notes += usize::from(kind == MarkKind::Note);
        let too_many = kind == MarkKind::Note && state.notes > MOST_NOTES;
        if state.recorded.is_none() && !too_many {
            state.marks.push(Mark {
                at,
                records,
                kind,
                subject,
                hosts: hosts.to_vec(),
                text,
            });
        }
    }

    /// Records a line that a host has printed, which is a note, too.
    pub(super) fn print(&self, host: u32, line: Line) {
        self.mark(MarkKind::Note, "", &[host], line.text.clone());
        let mut state = lock(&self.0);
        if state.recorded.is_none() {
            state.output.push(line);
        }
    }

    /// Notes the failure of the run, and stops recording. Later failures follow from the first, and are ignored.
    pub(super) fn fail(&self, cause: impl FnOnce(Duration) -> Cause, host: u32) {
        let elapsed = self.elapsed();
        if lock(&self.0).recorded.is_some() {
            return;
        }
        let cause = cause(elapsed);
        let text = match &cause {
            Cause::Invariant { name, .. } => name.clone(),
            // The rest is a traceback, which the failure itself has.
            other => other.to_string().lines().next().unwrap_or("").to_owned(),
        };
        self.mark(MarkKind::Failure, "", &[host], text);
        lock(&self.0).cause = Some(cause);
        HAS_FAILED.store(true, Ordering::Relaxed);
        self.stop();
    }

    /// Stops recording.
    pub(super) fn stop(&self) {
        let elapsed = self.elapsed();
        let mut state = lock(&self.0);
        if state.recorded.is_none() {
            state.recorded = Some(Recorded {
                began: state.began.unwrap_or(Instant::from_nanos(0)),
                hosts: state.hosts.clone(),
                schedule: state.schedule.clone(),
                elapsed,
                trace: network::take_trace(),
                output: std::mem::take(&mut state.output),
                unread: std::mem::take(&mut state.unread).into_values().collect(),
                digest: simulation::digest(),
                marks: std::mem::take(&mut state.marks),
            });
        }
    }

    /// The virtual time since the beginning.
    pub(super) fn elapsed(&self) -> Duration {
        let now = simulation::now();
        now.saturating_since(lock(&self.0).began.unwrap_or(now))
    }

    /// Returns what was recorded, once, and the failure that was noted.
    pub(super) fn take(&self) -> (Recorded, Option<Cause>) {
        let mut state = lock(&self.0);
        let recorded = state.recorded.take().unwrap_or_default();
        (recorded, state.cause.take())
    }
}
