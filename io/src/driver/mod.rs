//! Chooses a driver at run time and finds the driver of the current loop.

pub(crate) mod members;

use crate::uring::Unavailable;
use crate::{mio, simulated, uring};
use members::Members;
use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::{Arc, Once};
use std::time::Duration;
use yue_scheduler::{Bell, Config, Driver, Instant, Loop, Wait, in_fiber, this_loop};

/// The driver that a loop uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// io_uring where the kernel allows it, otherwise mio. The environment variable `YUE_IO` overrides this.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// mio (epoll).
    Mio,
}

/// The error for an unknown driver name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no I/O driver '{0}'; choose uring, mio or auto")]
pub struct UnknownDriver(String);

impl FromStr for Choice {
    type Err = UnknownDriver;

    fn from_str(name: &str) -> Result<Self, UnknownDriver> {
        match name {
            "auto" | "" => Ok(Choice::Auto),
            "uring" | "io_uring" => Ok(Choice::Uring),
            "mio" | "epoll" => Ok(Choice::Mio),
            other => Err(UnknownDriver(other.to_owned())),
        }
    }
}

impl Choice {
    /// Returns the choice in the environment variable `YUE_IO`, or [`Choice::Auto`] if it is not set.
    ///
    /// # Errors
    /// When `YUE_IO` names an unknown driver.
    pub fn from_environment() -> Result<Self, UnknownDriver> {
        match std::env::var_os("YUE_IO") {
            None => Ok(Choice::Auto),
            Some(name) => name.to_string_lossy().parse(),
        }
    }
}

/// Makes a driver for a loop on the calling thread.
///
/// [`Choice::Auto`] reads `YUE_IO` first. If no driver is forced and io_uring is refused, mio is used instead. One line
/// on standard error, once per process, says so and why.
///
/// `YUE_URING_OFF` disables io_uring features. It is a comma-separated list of names:
///
/// | name | without it |
/// |---|---|
/// | `defer-taskrun` | the kernel runs completions at any time, not only when the loop asks for them |
/// | `registered-ring` | each system call looks up the ring by its descriptor |
/// | `no-iowait` | a waiting loop counts as waiting for a disk in the system's load figures |
/// | `buffers` | each owned connection receives into its own buffer |
/// | `multishot` | owned connections submit every receive, and `incoming` every accept, separately |
/// | `direct` | a quiet loop also sends through the ring |
/// | `files` | files are read, written and opened on the blocking pool, as on mio |
///
/// `YUE_URING_ENTRIES` is the number of entries in a ring's submission queue (1024); the completion queue has four
/// times as many. Fewer entries take less memory, and more system calls when many operations start in one turn. No
/// operation or completion is lost when a queue is full; [`counters`] reports how often that happened.
///
/// On a thread of a [simulation](yue_scheduler::simulation) the driver is that of the simulated network, whatever the
/// choice.
///
/// # Errors
/// When io_uring is forced and refused (the message says why, and what to do); when `YUE_IO` names an unknown driver,
/// `YUE_URING_OFF` an unknown feature, or `YUE_URING_ENTRIES` is not a number from 1 to 32768; when the process is out
/// of descriptors or memory.
///
/// ```
/// use yue_scheduler::{Config, Loop};
///
/// let config = Config { driver: yue_io::driver(yue_io::Choice::Auto)?, ..Config::default() };
/// let name = Loop::new(config)?.run(|| yue_scheduler::this_loop::with_driver(|driver| driver.name()));
/// assert!(["uring", "mio"].contains(&name));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn driver(choice: Choice) -> io::Result<Box<dyn Driver>> {
    if simulated::is_on() {
        // Whatever the program chooses: its loops wait in the simulation.
        return Ok(IoDriver::boxed(Backend::Mio(new_mio_core()?)));
    }
    let choice = match choice {
        Choice::Auto => Choice::from_environment()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
        forced => forced,
    };
    if choice != Choice::Mio {
        uring::check_settings()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    }
    let backend = match choice {
        Choice::Mio => Backend::Mio(new_mio_core()?),
        Choice::Uring => Backend::Uring(uring::Core::new().map_err(uring_refused)?),
        Choice::Auto => match uring::Core::new() {
            Ok(core) => Backend::Uring(core),
            Err(reason) => {
                static NOTICE: Once = Once::new();
                NOTICE.call_once(|| {
                    yue_scheduler::log(
                        yue_scheduler::LogLevel::Info,
                        format_args!("{reason}; using mio (epoll) instead"),
                    )
                });
                Backend::Mio(new_mio_core()?)
            }
        },
    };
    Ok(IoDriver::boxed(backend))
}

/// Runs `main` as the first fiber of a loop, with the driver that this machine allows. When `main` returns, the
/// remaining fibers are cancelled and waited for. For programs that use this crate alone.
///
/// # Errors
/// When the driver or the loop cannot be set up.
///
/// # Panics
/// With the panic of `main`; when this thread already runs another loop.
///
/// ```
/// let text = yue_io::run(|| std::fs::read_to_string("/proc/self/comm"))??;
/// assert!(!text.is_empty());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn run<T: 'static>(main: impl FnOnce() -> T + 'static) -> io::Result<T> {
    let config = Config {
        driver: driver(Choice::Auto)?,
        ..Config::default()
    };
    Ok(Loop::new(config)?.run(main))
}

/// Counters of rare events in a loop's driver, for diagnosis.
///
/// See [`counters`].
///
/// ```
/// yue_io::run(|| -> std::io::Result<()> {
///     let met = yue_io::counters()?;
///     println!("the ring was full {} times", met.submissions_full);
///     assert_eq!(met.buffers_exhausted, 0);
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DriverCounters {
    /// Times that the kernel had data but no receive buffer (io_uring only). Each costs another submission.
    pub buffers_exhausted: u64,
    /// Operations that found the submission queue full (io_uring only). Each costs another system call.
    pub submissions_full: u64,
    /// Times that the completion queue was full (io_uring only). The kernel delivers those completions later.
    pub completions_full: u64,
}

/// Returns the counters of the calling thread's loop.
///
/// # Errors
/// When the loop's driver does no I/O.
///
/// # Panics
/// Outside a loop.
pub fn counters() -> io::Result<DriverCounters> {
    Ok(match backend()? {
        Backend::Uring(core) => {
            let (submissions_full, completions_full) = core.times_full();
            DriverCounters {
                buffers_exhausted: core.buffers_exhausted.get(),
                submissions_full,
                completions_full,
            }
        }
        Backend::Mio(_) => DriverCounters::default(),
    })
}

fn new_mio_core() -> io::Result<Rc<mio::Core>> {
    mio::Core::new().map_err(|error| {
        let text = format!(
            "the mio driver could not be set up: {error}{}",
            advice(&error)
        );
        io::Error::new(error.kind(), text)
    })
}

/// Advice for an error that the other driver would meet too.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "; allow the process more descriptors (ulimit -n)",
        Some(libc::ENFILE) => "; the whole system is out of descriptors (sysctl fs.file-max)",
        _ => "",
    }
}

fn uring_refused(reason: Unavailable) -> io::Error {
    let advice = match &reason {
        Unavailable::Other(error) => advice(error),
        _ => "; choose mio or auto",
    };
    let text = format!("the io_uring driver was requested (YUE_IO or --io), but {reason}{advice}");
    io::Error::new(io::Error::from(reason).kind(), text)
}

pub(crate) enum Backend {
    Uring(Rc<uring::Core>),
    Mio(Rc<mio::Core>),
}

impl Backend {
    /// The driver's state for owned operations.
    pub(crate) fn members(&self) -> &Members {
        match self {
            Backend::Uring(core) => &core.members,
            Backend::Mio(core) => &core.members,
        }
    }
}

impl Clone for Backend {
    fn clone(&self) -> Self {
        match self {
            Backend::Uring(core) => Backend::Uring(core.clone()),
            Backend::Mio(core) => Backend::Mio(core.clone()),
        }
    }
}

/// The driver of a loop that does I/O.
pub(crate) struct IoDriver {
    backend: Backend,
    /// Whether a turn is running.
    turning: Cell<bool>,
}

impl IoDriver {
    fn boxed(backend: Backend) -> Box<dyn Driver> {
        Box::new(IoDriver {
            backend,
            turning: Cell::new(false),
        })
    }

    #[inline]
    fn run_turn(&self, wait: Wait) -> io::Result<()> {
        assert!(
            !self.turning.replace(true),
            "a callback called its driver's turn: events would be delivered out of order"
        );
        let _turned = Turned(&self.turning);
        match &self.backend {
            Backend::Uring(core) => core.turn(wait),
            Backend::Mio(core) => core.turn(wait),
        }
    }
}

struct Turned<'a>(&'a Cell<bool>);

impl Drop for Turned<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl fmt::Debug for IoDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoDriver")
            .field("name", &self.name())
            .field("in_flight", &self.in_flight())
            .finish()
    }
}

impl Driver for IoDriver {
    #[inline]
    fn turn(&self, wait: Wait) -> io::Result<()> {
        assert!(
            !in_fiber(),
            "only a loop may call its driver's turn: called by a fiber, it would run callbacks inside the fiber"
        );
        self.run_turn(wait)
    }

    fn bell(&self) -> Arc<dyn Bell> {
        match &self.backend {
            Backend::Uring(core) => core.bell(),
            Backend::Mio(core) => core.bell(),
        }
    }

    fn in_flight(&self) -> usize {
        match &self.backend {
            Backend::Uring(core) => core.in_flight(),
            Backend::Mio(core) => core.in_flight(),
        }
    }

    fn lent(&self) -> usize {
        match &self.backend {
            Backend::Uring(core) => core.lent(),
            // The kernel borrows no memory: calls run when they need not wait, or on the blocking pool.
            Backend::Mio(_) => 0,
        }
    }

    fn cancel_all(&self) {
        match &self.backend {
            Backend::Uring(core) => core.cancel_all(),
            Backend::Mio(core) => core.cancel_all(),
        }
    }

    fn name(&self) -> &'static str {
        match &self.backend {
            Backend::Uring(_) => "uring",
            Backend::Mio(core) => core.name(),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The longest time that a dropped driver waits for the kernel to finish operations in flight.
const DRAIN: Duration = Duration::from_millis(500);

impl Drop for IoDriver {
    fn drop(&mut self) {
        let until = Instant::system().saturating_add(DRAIN);
        while self.in_flight() > 0 && Instant::system() < until {
            self.cancel_all();
            let pause = Instant::system().saturating_add(Duration::from_millis(1));
            if self.run_turn(Wait::Block(Some(pause))).is_err() {
                break;
            }
        }
        match &self.backend {
            Backend::Mio(core) => core.clear(),
            Backend::Uring(core) => {
                core.members.clear();
                let left = core.in_kernel();
                if left > 0 {
                    yue_scheduler::log(
                        yue_scheduler::LogLevel::Warn,
                        format_args!(
                            "{left} operations are still in the kernel when their loop ends; its ring is leaked"
                        ),
                    );
                    std::mem::forget(core.clone());
                }
            }
        }
    }
}

/// The context in which an operation is called.
pub(crate) enum Caller {
    /// A fiber of a loop with the io_uring driver.
    Uring(Rc<uring::Core>),
    /// A fiber of a loop with the mio driver.
    Mio(Rc<mio::Core>),
    /// A plain thread: it may block.
    Thread,
    /// A loop's callback: it cannot wait. Operations that would block return `WouldBlock`.
    Callback,
    /// A fiber of either driver, in a destructor that runs during a panic. A call is tried, and fails if it would have
    /// to wait.
    Unwinding,
}

/// Returns the caller's context.
///
/// # Errors
/// In a fiber of a loop whose driver does no I/O.
#[inline]
pub(crate) fn caller() -> io::Result<Caller> {
    if in_fiber() {
        if std::thread::panicking() {
            return Ok(Caller::Unwinding);
        }
        match backend()? {
            Backend::Uring(core) => Ok(Caller::Uring(core)),
            Backend::Mio(core) => Ok(Caller::Mio(core)),
        }
    } else if this_loop::exists() {
        Ok(Caller::Callback)
    } else {
        Ok(Caller::Thread)
    }
}

/// Returns the driver of the loop that runs on this thread.
///
/// # Errors
/// When the loop's driver does no I/O.
///
/// # Panics
/// Outside a loop.
#[inline]
pub(crate) fn backend() -> io::Result<Backend> {
    let found = this_loop::with_driver(|driver| {
        driver
            .as_any()
            .downcast_ref::<IoDriver>()
            .map(|driver| driver.backend.clone())
    });
    found.ok_or_else(|| {
        let text =
            "this loop's driver does no I/O; make the loop with yue_io::driver in its Config";
        io::Error::new(io::ErrorKind::Unsupported, text)
    })
}

/// Returns the driver of the loop that runs on this thread, if that loop does I/O.
pub(crate) fn backend_here() -> Option<Backend> {
    if !this_loop::exists() {
        return None;
    }
    backend().ok()
}
