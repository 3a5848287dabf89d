//! The requests that the calling thread's loop serves: statistics by method, the slowest, those that run, and traces.
//!
//! ```text
//!   worker ── begin ─▶ Running ── handler ── end ─▶ Method (counts, histogram), Slowest, each Trace that wants it
//!     └── nobody watches: one load and one branch, at the begin and at the end
//! ```
//!
//! Recording is off until [`watch`] turns it on for a time, for all loops of the process. The first request that ends
//! later turns it off again. Each loop has tables of its own, so recording takes no lock and no atomic operation but
//! the load of the flag.
//!
//! Invariants: the number of methods, of slow requests, of traces and of the requests that each of them holds is
//! limited, and so are the texts. Names that no function has are counted together, so peers cannot fill the tables with
//! invented ones.

mod table;
mod traces;

use crate::session::{RequestContext, Session};
use hdrhistogram::Histogram;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use table::{Running, Table};
use yue_scheduler::{Instant, lock, simulation};

pub use traces::TraceFilter;

/// The number of methods that a loop counts separately.
pub const METHODS_MAX: usize = 500;

/// The number of requests that [`slowest`] returns, and their age at most.
pub const SLOWEST_MAX: usize = 32;
const SLOWEST_AGE: Duration = Duration::from_secs(60);

/// The number of requests that a trace keeps between two questions.
pub const TRACE_MAX: usize = 2048;

/// The number of traces on a loop.
pub const TRACES_MAX: usize = 8;

/// The name under which requests are counted whose method does not exist, or is above [`METHODS_MAX`].
pub const OTHERS: &str = "(others)";

/// The name under which calls of functions are counted that were passed as values.
pub const FUNCTIONS: &str = "(functions)";

/// Whether requests are recorded. It is read once per request.
static WATCHED: AtomicBool = AtomicBool::new(false);

/// The end of the recording, in nanoseconds of [`Instant`].
static UNTIL: AtomicU64 = AtomicU64::new(0);

/// The number of the present recording: the tables of an earlier one are emptied when they are used.
static RECORDING: AtomicU32 = AtomicU32::new(0);

/// The begin of the present recording. Whoever changes `WATCHED` holds it.
static SINCE: Mutex<Option<Instant>> = Mutex::new(None);

/// Records the requests of all loops of the process for `duration` from now, or for longer if that was requested
/// before. Returns the time since the recording began. The statistics cover that time.
///
/// ```
/// use std::time::Duration;
/// use yue_rpc::inspect::calls;
/// use yue_rpc::typed::{Client, Server};
///
/// yue_io::run(|| -> Result<(), yue_rpc::Error> {
///     let listener = Server::new().handler("ping", |()| Ok("pong")).listen("tcp://127.0.0.1:0")?;
///     let client = Client::open(&listener.address().to_string())?;
///     client.call::<_, String>("ping", ())?; // Nobody watches yet.
///     calls::watch(Duration::from_secs(10));
///     client.call::<_, String>("ping", ())?;
///     let methods = calls::methods(0, 100);
///     assert_eq!(methods.len(), 1);
///     assert_eq!(methods[0].name, "ping");
///     assert_eq!(methods[0].listener, Some(listener.address().to_string()));
///     assert_eq!((methods[0].calls, methods[0].errors), (1, 0));
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn watch(duration: Duration) -> Duration {
    let now = Instant::system();
    let until = now.saturating_add(duration).as_nanos();
    let mut since = lock(&SINCE);
    if now.as_nanos() > UNTIL.load(Ordering::Relaxed) {
        *since = None;
    }
    let begin = *since.get_or_insert_with(|| {
        RECORDING.fetch_add(1, Ordering::Relaxed);
        now
    });
    UNTIL.fetch_max(until, Ordering::Relaxed);
    // Relaxed, all of them: a loop that sees the change a little later records a request less.
    WATCHED.store(true, Ordering::Relaxed);
    now.saturating_since(begin)
}

/// Whether requests are recorded now.
///
/// ```
/// use std::time::Duration;
/// use yue_rpc::inspect::calls;
///
/// assert!(!calls::are_watched());
/// calls::watch(Duration::from_secs(1));
/// assert!(calls::are_watched());
/// ```
#[inline]
pub fn are_watched() -> bool {
    // A simulation is not part of the recorded process; each recorded request reads the clock.
    WATCHED.load(Ordering::Relaxed) && !simulation::is_on()
}

/// Ends the recording if its time has passed.
fn end_if_past(now: Instant) -> bool {
    if now.as_nanos() <= UNTIL.load(Ordering::Relaxed) {
        return false;
    }
    end_recording(now)
}

#[cold]
fn end_recording(now: Instant) -> bool {
    let mut since = lock(&SINCE);
    // Somebody may have prolonged it just now.
    let is_past = now.as_nanos() > UNTIL.load(Ordering::Relaxed);
    if is_past {
        *since = None;
        WATCHED.store(false, Ordering::Relaxed);
    }
    is_past
}

/// The statistics of one method.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MethodStats {
    /// The name, cut after 128 bytes; or [`OTHERS`], or [`FUNCTIONS`].
    pub name: String,
    /// The address of the listener. `None` for requests over connections that this side opened, and for listeners that
    /// are gone.
    pub listener: Option<String>,
    /// Requests and notifications that have ended since the recording began.
    pub calls: u64,
    /// Those among them that failed.
    pub errors: u64,
    /// Requests that run, and began since the recording began.
    pub in_flight: u64,
    /// The sum of the times of all that have ended.
    pub total: Duration,
    /// The longest time.
    pub max: Duration,
    /// The times in nanoseconds, right within 6 %.
    pub times: Histogram<u32>,
}

impl MethodStats {
    /// Adds the counts of the same method on another loop.
    pub fn add(&mut self, other: &MethodStats) {
        self.calls += other.calls;
        self.errors += other.errors;
        self.in_flight += other.in_flight;
        self.total += other.total;
        self.max = self.max.max(other.max);
        // It resizes itself, so there is room.
        let _ = self.times.add(&other.times);
    }

    /// The time that `percent` of the requests did not exceed; zero if there were none.
    pub fn percentile(&self, percent: f64) -> Duration {
        // The histogram rounds up, beyond the longest time that there was.
        Duration::from_nanos(self.times.value_at_percentile(percent)).min(self.max)
    }
}

/// A request that has ended, or runs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServedCall {
    /// The method's name, cut after 128 bytes; or [`FUNCTIONS`].
    pub method: Box<str>,
    /// The address of the peer.
    pub peer: Box<str>,
    /// The address of the listener; see [`MethodStats::listener`].
    pub listener: Option<Arc<str>>,
    /// The start of its handler.
    pub began: Instant,
    /// The time from there to its answer, or to now for one that runs.
    pub duration: Duration,
    /// The type of the error with which it failed.
    pub error: Option<Box<str>>,
    /// Whether nobody waits for an answer.
    pub is_notification: bool,
}

thread_local! {
    static TABLE: RefCell<Table> = RefCell::default();
}

/// Runs `f` with the tables of this loop, emptied if they are of an earlier recording. `None` while the thread ends.
fn with_table<R>(f: impl FnOnce(&mut Table) -> R) -> Option<R> {
    let use_table = |table: &RefCell<Table>| {
        let mut table = table.borrow_mut();
        table.empty_if_older(RECORDING.load(Ordering::Relaxed));
        f(&mut table)
    };
    TABLE.try_with(use_table).ok()
}

/// Lists the statistics of this loop's methods: at most `max`, from the position `from` on. They are in the order in
/// which they were called first, and keep their positions until a recording begins anew.
pub fn methods(from: usize, max: usize) -> Vec<MethodStats> {
    with_table(|table| table.methods(from, max)).unwrap_or_default()
}

/// Lists the requests of the last minute that took longest on this loop, the slowest first, [`SLOWEST_MAX`] at most.
///
/// ```
/// use std::time::Duration;
/// use yue_rpc::inspect::calls;
/// use yue_rpc::typed::{Client, Server};
///
/// yue_io::run(|| -> Result<(), yue_rpc::Error> {
///     calls::watch(Duration::from_secs(10));
///     let refuse = |()| -> Result<(), _> { Err("not today".into()) };
///     let listener = Server::new().handler("refuse", refuse).listen("tcp://127.0.0.1:0")?;
///     let client = Client::open(&listener.address().to_string())?;
///     client.call::<_, ()>("refuse", ()).unwrap_err();
///     let slowest = calls::slowest();
///     assert_eq!(&*slowest[0].method, "refuse");
///     assert_eq!(slowest[0].error.as_deref(), Some("RuntimeError"));
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn slowest() -> Vec<ServedCall> {
    with_table(|table| table.slowest(Instant::system())).unwrap_or_default()
}

/// The requests of this loop whose handlers run.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RunningCalls {
    /// Their number.
    pub count: usize,
    /// Some of them, the oldest first.
    pub oldest: Vec<ServedCall>,
}

/// Lists the requests of this loop that run and began since the recording began: their number, and the `max` oldest.
pub fn running(max: usize) -> RunningCalls {
    with_table(|table| table.running(Instant::system(), max)).unwrap_or_default()
}

/// Takes the requests that the trace `token` has kept since it was asked last, at most `max`, and the number of those
/// for which there was no room. The first question begins the trace on this loop. Without further questions it ends at
/// `until`. Only requests that end while the calls are [watched](watch) are traced.
///
/// ```
/// use std::time::Duration;
/// use yue_rpc::inspect::calls::{self, TraceFilter};
/// use yue_rpc::typed::{Client, Server};
/// use yue_scheduler::Instant;
///
/// yue_io::run(|| -> Result<(), yue_rpc::Error> {
///     let server = Server::new().handler("a.ping", |()| Ok(1)).handler("b.ping", |()| Ok(2));
///     let listener = server.listen("tcp://127.0.0.1:0")?;
///     let client = Client::open(&listener.address().to_string())?;
///     calls::watch(Duration::from_secs(10));
///     let wanted = TraceFilter { method: Some("b.*".into()), ..TraceFilter::default() };
///     let ask = || calls::trace(1, &wanted, Instant::NEVER, 100);
///     ask();
///     for name in ["a.ping", "b.ping"] {
///         client.call::<_, u8>(name, ())?;
///     }
///     let (calls, dropped) = ask();
///     assert_eq!((calls.len(), dropped), (1, 0));
///     assert_eq!(&*calls[0].method, "b.ping");
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn trace(
    token: u64,
    wanted: &TraceFilter,
    until: Instant,
    max: usize,
) -> (Vec<ServedCall>, u64) {
    with_table(|table| table.traces.take(token, wanted, until, max)).unwrap_or_default()
}

/// A request that is being recorded.
pub(crate) struct Recorded(Option<Rc<Running>>);

impl Recorded {
    /// Nobody watches.
    pub(crate) const NONE: Recorded = Recorded(None);

    /// Begins to record a request, if [`are_watched`].
    #[cold]
    pub(crate) fn begin(session: &Session, name: Option<&[u8]>, is_notification: bool) -> Recorded {
        let began = Instant::system();
        if end_if_past(began) {
            return Recorded::NONE;
        }
        let begin = |table: &mut Table| table.begin(session, name, is_notification, began);
        Recorded(with_table(begin))
    }

    /// The request has been answered.
    #[inline]
    pub(crate) fn end(mut self, context: &RequestContext) {
        if let Some(running) = self.0.take() {
            end_watched(&running, context.failed.take());
        }
    }

    /// The request was refused before its handler began.
    pub(crate) fn refuse(mut self, error: &str) {
        if let Some(running) = self.0.take() {
            let failed = Failed {
                error: error.into(),
                no_method: true,
            };
            end_watched(&running, Some(Box::new(failed)));
        }
    }
}

impl Drop for Recorded {
    #[inline]
    fn drop(&mut self) {
        // The loop ends, and the request with it.
        if let Some(running) = self.0.take() {
            with_table(|table| table.forget(&running));
        }
    }
}

#[cold]
fn end_watched(running: &Running, failed: Option<Box<Failed>>) {
    let now = Instant::system();
    let end = |table: &mut Table| table.end(running, failed.map(|failed| *failed), now);
    with_table(end);
    end_if_past(now);
}

/// The failure of a request that is being recorded.
pub(crate) struct Failed {
    /// The type of the error.
    error: Box<str>,
    /// There is no method of that name.
    no_method: bool,
}

impl Failed {
    /// Notes in the request's context that it has failed.
    #[inline]
    pub(crate) fn note(context: &Cell<Option<Box<Failed>>>, error: &str, no_method: bool) {
        if are_watched() {
            let error = error.into();
            context.set(Some(Box::new(Failed { error, no_method })));
        }
    }
}

/// Forgets the listener that had this key: another one has it now.
pub(super) fn forget_listener(key: usize) {
    // Without a table the thread is ending.
    let _ = TABLE.try_with(|table| table.borrow_mut().forget_listener(key));
}
