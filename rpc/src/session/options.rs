//! Options, limits and counters of a session, and the timeout of one call.

use crate::proto::ScanLimits;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use yue_scheduler::{StackClass, simulation};

const MIB: usize = 1 << 20;

/// Options of a session. The defaults serve most programs.
///
/// ```
/// use std::time::Duration;
/// use yue_rpc::typed::{Client, Server};
/// use yue_rpc::{Error, ErrorKind, Options};
///
/// yue_io::run(|| -> Result<(), Error> {
///     let options = Options { timeout: Duration::from_secs(1), ..Options::default() };
///     let client = Client::open_with("thread://nobody", Server::new(), options)?;
///     let error = client.call::<_, ()>("f", ()).unwrap_err();
///     assert_eq!(error.kind(), ErrorKind::ConnectionRefused); // With `retry` it would wait for somebody.
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    /// The limits above which the session refuses.
    pub limits: Limits,
    /// The time that a call waits for its answer, unless the call sets its own.
    pub timeout: Duration,
    /// Opened connections: do not ask whether the peer is yue; it gets plain msgpack-rpc.
    pub legacy: bool,
    /// Opened connections: reconnect when a link that was up is lost, or was refused, unless the hooks decide.
    pub reconnect: bool,
    /// Opened connections: wait and retry even when the very first attempt is refused.
    pub retry: bool,
    /// The treatment of a connection whose peer does not read the notifications that are sent to it.
    pub when_full: WhenFull,
    /// Lets callers stop the handlers of this side: a handler that has started is cancelled when its caller gives up or
    /// its caller's time ends, and the calls that it makes wait no longer than its caller does. By default a handler
    /// that has started runs to its end, whatever its caller does, and the caller's side drops an answer that nobody
    /// waits for. In both cases a request that has not started when its caller's time ends never starts.
    ///
    /// ```
    /// use std::time::Duration;
    /// use yue_rpc::typed::{Client, Server};
    /// use yue_rpc::{Error, ErrorKind, Options, Timeout};
    ///
    /// yue_io::run(|| -> Result<(), Error> {
    ///     let (sender, outcome) = yue_scheduler::sync::local::channel(1);
    ///     let server = Server::new().handler("nap", move |()| {
    ///         let nap = yue_scheduler::sleep(Duration::from_secs(1000));
    ///         sender.try_send(nap.is_err()).ok();
    ///         Ok(())
    ///     });
    ///     let server = server.handler("ready", |()| Ok(()));
    ///     let options = Options { cancel: true, ..Options::default() };
    ///     let listener = server.options(options).listen("tcp://127.0.0.1:0")?;
    ///     let client = Client::open(&listener.address().to_string())?;
    ///     client.call::<_, ()>("ready", ())?; // Connects.
    ///     let soon = Timeout::After(Duration::from_millis(10));
    ///     let error = client.call_within::<_, ()>(soon, "nap", ()).unwrap_err();
    ///     assert_eq!(error.kind(), ErrorKind::Timeout);
    ///     assert!(outcome.recv().unwrap()); // The nap was cut short.
    ///     Ok(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub cancel: bool,
    /// Answers of more bytes are sent to yue peers in chunks of this size, so that smaller messages overtake them, and
    /// the answers of yue peers arrive in chunks, too. Such an answer may arrive after messages that were sent later.
    /// `None`: all answers are sent, and taken, whole. Over `thread://` they always are.
    pub chunk_bytes: Option<usize>,
    /// The class of the stacks on which handlers and hooks run.
    pub stack: StackClass,
}

/// A link of 10 Mbit/s sends such a chunk in a twentieth of a second.
const CHUNK_BYTES: usize = 64 * 1024;

impl Options {
    /// The size above which a message is too large, or is divided.
    pub(super) fn undivided_max(&self) -> usize {
        let divided = self.chunk_bytes.unwrap_or(usize::MAX);
        self.limits.message_bytes_max.min(divided)
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            limits: Limits::default(),
            timeout: Duration::from_secs(5),
            legacy: false,
            reconnect: true,
            retry: false,
            when_full: WhenFull::default(),
            cancel: false,
            chunk_bytes: Some(CHUNK_BYTES),
            stack: StackClass::default(),
        }
    }
}

/// The treatment of a notification that finds more than [`Limits::output_bytes_max`] waiting to be sent. It always
/// returns the error `QueueFullError`; over `thread://` that is all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// The link ends, [`TooSlow`](crate::CloseReason::TooSlow): peer and program start from the beginning, and no
    /// message is missing in the middle.
    #[default]
    Close,
    /// The notification is dropped and counted, and [`Hooks::on_full`](crate::Hooks::on_full) is called for the first
    /// one.
    Drop,
}

/// The limits of one connection. Each has an error that reports it, and a counter in [`Stats`].
///
/// ```
/// use yue_rpc::typed::{Client, Server};
/// use yue_rpc::{Error, ErrorKind, Limits, Options};
///
/// yue_io::run(|| -> Result<(), Error> {
///     let limits = Limits { message_bytes_max: 1000, ..Limits::default() };
///     let options = Options { limits, ..Options::default() };
///     let server = Server::new().handler("len", |text: String| Ok(text.len()));
///     let listener = server.listen("tcp://127.0.0.1:0")?;
///     let client = Client::open_with(&listener.address().to_string(), Server::new(), options)?;
///     let error = client.call::<_, usize>("len", "x".repeat(1000)).unwrap_err();
///     assert_eq!(error.kind(), ErrorKind::MessageTooLarge);
///     assert_eq!(client.call::<_, usize>("len", "short")?, 5); // The connection stays open.
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of one message, in either direction.
    pub message_bytes_max: usize,
    /// The nesting of arrays and maps in a message.
    pub nesting_max: usize,
    /// Requests of the peer that wait or run, and, separately, outgoing calls that wait for an answer.
    pub in_flight_max: usize,
    /// Bytes of requests that wait or run. Above it the connection is not read for a while. Where this side's own
    /// progress may depend on the next message, reading continues, and requests above twice the limit are refused as
    /// busy.
    pub pending_input_bytes_max: usize,
    /// Bytes waiting to be sent; above it no request is started, and callers wait before they write.
    pub output_bytes_high: usize,
    /// Bytes waiting to be sent; above it, messages whose sender does not wait are not queued: asynchronous calls fail,
    /// and [`Options::when_full`] applies to notifications. A peer that keeps sending messages which must be answered
    /// at once (pings, requests that a limit refuses) and does not read is closed a largest message and
    /// `output_bytes_high` above it. A value below `output_bytes_high` acts like `output_bytes_high`.
    pub output_bytes_max: usize,
    /// Bytes of calls that are held until the link is up and granted.
    pub held_bytes_max: usize,
    /// Bytes that a client may send before it is granted, except answers to this side's calls.
    pub ungranted_bytes_max: usize,
    /// Requests of a client that wait for its grant.
    pub ungranted_requests_max: usize,
    /// Connections of a listener.
    pub connections_max: usize,
    /// Requests that wait or run on all connections of a listener. Near the limit, connections above their fair share
    /// are refused first.
    pub handlers_max: usize,
    /// Bytes of input, requests and output on all connections of a listener. Above it the connections that hold most
    /// are not read.
    pub memory_max: usize,
    /// The time in which a message that has begun must grow by a kilobyte, or end.
    pub message_time: Duration,
    /// References to functions of this side that the peer holds.
    pub references_max: usize,
    /// The rate at which the peer may call. `None`: unlimited.
    pub rate: Option<Rate>,
    /// The time for greeting and `on_accept` together.
    pub handshake: Duration,
    /// The time that the peer may read nothing at all while more than `output_bytes_high` waits for it.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let ScanLimits {
            message_bytes_max,
            nesting_max,
        } = ScanLimits::default();
        Limits {
            message_bytes_max,
            nesting_max,
            in_flight_max: 16_384,
            pending_input_bytes_max: 8 * MIB,
            // A few times the size of a socket's own buffers, so that a fast peer does not reach it.
            output_bytes_high: MIB,
            output_bytes_max: 8 * MIB,
            held_bytes_max: 8 * MIB,
            ungranted_bytes_max: 64 << 10,
            ungranted_requests_max: 16,
            connections_max: machine().connections_max,
            handlers_max: 32_768,
            memory_max: machine().memory_max,
            message_time: Duration::from_secs(30),
            references_max: 1 << 20,
            rate: None,
            handshake: Duration::from_secs(30),
            stall: Duration::from_secs(30),
        }
    }
}

/// The machine's resources, which set a listener's defaults.
struct Machine {
    connections_max: usize,
    memory_max: usize,
}

/// Descriptors are left for the program's other files, and a listener takes at most a quarter of the memory.
fn machine() -> &'static Machine {
    /// The resources of each simulated host, whatever the real machine is.
    const SIMULATED: &Machine = &Machine {
        connections_max: 16_384,
        memory_max: 1024 * MIB,
    };
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    if simulation::is_on() {
        return SIMULATED;
    }
    MACHINE.get_or_init(|| {
        let word = |path: &str, line: &str, index: usize| -> Option<usize> {
            let text = std::fs::read_to_string(path).ok()?;
            let line = text.lines().find(|text| text.starts_with(line))?;
            line[line.find(':').map_or(0, |at| at + 1)..]
                .split_whitespace()
                .nth(index)?
                .parse()
                .ok()
        };
        // "Max open files            1024                 524288               files"
        let descriptors = word("/proc/self/limits", "Max open files", 3).unwrap_or(1 << 20);
        let ram = word("/proc/meminfo", "MemTotal", 0).map(|kib| kib << 10);
        let group = std::fs::read_to_string("/proc/self/cgroup").ok();
        let group = group.as_deref().and_then(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix("0::"))
                .map(|path| format!("/sys/fs/cgroup{path}/memory.max"))
        });
        let allowed = group.and_then(|path| word(&path, "", 0));
        let memory = ram.into_iter().chain(allowed).min().unwrap_or(4 << 30);
        Machine {
            connections_max: descriptors.saturating_sub(256).clamp(64, 65_536),
            memory_max: (memory / 4).max(64 * MIB),
        }
    })
}

impl Limits {
    /// The maximum of waiting output for messages whose sender does not wait for room.
    #[inline]
    pub(super) fn output_max(&self) -> usize {
        self.output_bytes_max.max(self.output_bytes_high)
    }

    /// The maximum of waiting output for answers that are written without a worker: notifications may have filled it up
    /// to a message of the largest size above their limit.
    pub(super) fn output_ceiling(&self) -> usize {
        self.output_max()
            .saturating_add(self.message_bytes_max)
            .saturating_add(self.output_bytes_high)
    }

    pub(super) fn scan(&self) -> ScanLimits {
        // Positions in a segment are kept in 32 bits.
        let message_bytes_max = self.message_bytes_max.min(1 << 30);
        ScanLimits {
            message_bytes_max,
            nesting_max: self.nesting_max.saturating_add(ENVELOPE_LEVELS),
        }
    }
}

/// The rate at which the peer of a connection may call: a bucket of `burst` calls that is filled by `calls_per_second`.
///
/// A call that finds it empty is answered with `ServerBusyError`; a notification is dropped. A peer that ignores this
/// is closed when ten buckets' worth of its calls have been refused, of which one tenth of the rate is forgiven.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// The number of calls and notifications per second in the long run.
    pub calls_per_second: f64,
    /// The number of calls at once after a pause. At least 1.
    pub burst: u32,
}

/// Levels of a message around an error's value, the deepest position of a value: the message's array, the error's
/// array, and its map of details. The limit applies to values; the decoder enforces it, as an error of one call.
const ENVELOPE_LEVELS: usize = 3;

/// The time limit of a call.
///
/// ```
/// use std::time::Duration;
/// use yue_rpc::typed::{Client, Server};
/// use yue_rpc::{Error, ErrorKind, Timeout};
///
/// yue_io::run(|| -> Result<(), Error> {
///     let listener = Server::new()
///         .handler("nap", |()| Ok(yue_scheduler::sleep(Duration::from_millis(100))?))
///         .listen("tcp://127.0.0.1:0")?;
///     let client = Client::open(&listener.address().to_string())?;
///     let soon = Timeout::After(Duration::from_millis(10));
///     let error = client.call_within::<_, ()>(soon, "nap", ()).unwrap_err();
///     assert_eq!(error.kind(), ErrorKind::Timeout); // The handler naps on: see `Options::cancel`.
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Timeout {
    /// The session's [`Options::timeout`].
    #[default]
    Default,
    /// That duration.
    After(Duration),
    /// No limit.
    Never,
}

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counts of a connection, and the limits that it met. All counts are since the session was created.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Stats { $($(#[$doc])* pub $name: u64,)* }

        /// The live counters behind [`Stats`].
        #[derive(Default)]
        pub(super) struct Counters { $(pub(super) $name: Counter,)* }

        impl Counters {
            pub(super) fn snapshot(&self) -> Stats {
                Stats { $($name: self.$name.get(),)* }
            }
        }

        impl Stats {
            pub(super) const NONE: Stats = Stats { $($name: 0,)* };

            pub(super) fn plus(self, other: Stats) -> Stats {
                Stats { $($name: self.$name + other.$name,)* }
            }
        }
    };
}

stats! {
    /// Calls made.
    calls,
    /// Calls that were held at first.
    calls_held,
    /// Notifications queued.
    notifications,
    /// Notifications dropped because too much was waiting to be sent.
    notifications_dropped,
    /// Notifications that expired before there was room to send them.
    notifications_late,
    /// Requests and notifications of the peer that were started.
    requests,
    /// Requests and notifications of the peer that were answered with an error, or would have been.
    requests_failed,
    /// Calls that the peer answered with an error.
    calls_failed,
    /// Calls that timed out.
    timeouts,
    /// Answers sent in chunks.
    answers_divided,
    /// Answers that no caller waited for.
    answers_ignored,
    /// Ids of traces and call chains that made no sense, and were ignored.
    traces_ignored,
    /// Bytes read.
    bytes_in,
    /// Bytes handed to the transport.
    bytes_out,
    /// Buffers handed to the transport.
    writes,
    /// Links that came up.
    links,
    /// Links that ended.
    links_ended,
    /// Requests refused because too many were in flight.
    refused_in_flight,
    /// Connections refused because the listener has too many.
    refused_connections,
    /// Requests refused because too many were in flight on all connections of the listener.
    refused_handlers,
    /// Requests refused because too many waited for the grant.
    refused_ungranted,
    /// Messages that began and were not completed in time.
    refused_unfinished,
    /// Requests refused because those in flight had too many bytes.
    refused_pending_input,
    /// Messages, in either direction, refused for their size.
    refused_too_large,
    /// Messages that were malformed or nested too deep.
    refused_malformed,
    /// Calls refused because too many wait for answers.
    refused_calls,
    /// Calls refused because too many bytes are held.
    refused_held,
    /// References refused because the peer holds too many.
    refused_references,
    /// Requests refused because the peer calls too often.
    refused_rate,
    /// The number of times reading stopped because too much input was waiting.
    reading_stopped,
    /// The number of times requests were not started because too much output was waiting.
    dispatch_stopped,
    /// Handshakes that timed out.
    handshake_timeouts,
    /// Links ended because the peer did not read.
    stalls,
    /// Links ended because the peer read its messages too slowly.
    too_slow,
    /// Pings sent because the peer had been silent for a while.
    pings,
    /// Links ended because the peer was silent, and did not answer a ping.
    silences,
    /// The number of times reading stopped because the connections of the listener held too much memory.
    memory_stopped,
    /// Datagrams that were dropped: they held no whole message, or nothing was read at that time.
    datagrams_dropped,
}

/// A counter that the session's loop changes and any thread may read.
#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn get(&self) -> u64 {
        // Relaxed: nothing else depends on the count.
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    fn add(&self, amount: u64) {
        // Only one thread writes, so this is a plain addition.
        self.0.store(self.get() + amount, Ordering::Relaxed);
    }
}

#[inline]
pub(super) fn count(counter: &Counter) {
    counter.add(1);
}

#[inline]
pub(super) fn add(counter: &Counter, amount: usize) {
    counter.add(amount as u64);
}
