//! Unix signals, delivered on loops.
//!
//! ```text
//!   main():  signal::block(&[INT, TERM])          before any thread starts: threads inherit the mask
//!   loops:   signal::subscribe(&[INT], callback)
//!
//!   kernel ──▶ the signalfd of some subscribed loop ──▶ every subscriber: here by a call, elsewhere through its inbox
//! ```
//!
//! A signal can be read from a signalfd only while it is blocked, in every thread: one that is not blocked somewhere
//! takes its usual course there, which mostly ends the process. So block first, then start threads. Only signals that
//! somebody asked for are touched.
//!
//! Every loop with a subscription has a signalfd of its own; the kernel gives a signal to one of them, and that loop
//! tells all. So no loop is special, and any of them may end.
//!
//! Child processes inherit blocked signals: start them through [`unblocked`].
//!
//! ```
//! use yue::process::Command;
//! use yue::signal::{self, Signal};
//!
//! fn main() -> std::io::Result<()> {
//!     signal::block(&[Signal::HUP])?;
//!     yue::Runtime::new()?.run(|| -> std::io::Result<()> {
//!         let (told, heard) = yue::sync::local::channel(1);
//!         let _subscription = signal::subscribe(&[Signal::HUP], move |signal| {
//!             let _ = told.try_send(signal); // One that waits already is enough.
//!         })?;
//!         Command::new("sh").args(["-c", "kill -HUP $PPID"]).status()?; // An operator's part.
//!         assert_eq!(heard.recv().unwrap(), Signal::HUP);
//!         Ok(())
//!     })
//! }
//! ```

mod watch;

use crate::sys;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use watch::Watch;
use yue_scheduler::{LoopHandle, this_loop};

/// A signal, by its number.
///
/// ```
/// use yue::signal::Signal;
///
/// let signal: Signal = "term".parse().unwrap();
/// assert_eq!(signal, Signal::TERM);
/// assert_eq!(signal.to_string(), "SIGTERM");
/// assert_eq!(Signal::from_number(15), Ok(Signal::TERM));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(i32);

/// Signals with their names without `SIG`.
const NAMES: [(&str, i32); 16] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
];

/// A name or number that is no signal which a program can wait for.
///
/// ```
/// use yue::signal::Signal;
///
/// let error = "KILL".parse::<Signal>().unwrap_err();
/// assert!(error.to_string().starts_with("'KILL' is no signal that can be waited for"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no signal that can be waited for; use a name such as INT or SIGTERM, or a number from 1 to 64"
)]
pub struct UnknownSignal(String);

impl Signal {
    /// Hang-up: the terminal is gone; for servers, by custom, "read the configuration again".
    pub const HUP: Signal = Signal(libc::SIGHUP);
    /// Interrupt, from the keyboard.
    pub const INT: Signal = Signal(libc::SIGINT);
    /// Quit, from the keyboard.
    pub const QUIT: Signal = Signal(libc::SIGQUIT);
    /// A polite request to end.
    pub const TERM: Signal = Signal(libc::SIGTERM);
    /// For the program's own use.
    pub const USR1: Signal = Signal(libc::SIGUSR1);
    /// For the program's own use.
    pub const USR2: Signal = Signal(libc::SIGUSR2);
    /// A child process ended or stopped.
    pub const CHLD: Signal = Signal(libc::SIGCHLD);
    /// The terminal's size changed.
    pub const WINCH: Signal = Signal(libc::SIGWINCH);

    /// The signal with that number.
    ///
    /// # Errors
    /// When there is none, or it cannot be waited for: `KILL`, `STOP`, and those by which a fault is reported.
    pub fn from_number(number: i32) -> Result<Signal, UnknownSignal> {
        let reserved = [
            libc::SIGKILL,
            libc::SIGSTOP,
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGFPE,
            libc::SIGILL,
            libc::SIGTRAP,
            libc::SIGABRT,
            libc::SIGSYS,
        ];
        // 32 and 33 are the C library's own.
        let known =
            (1..32).contains(&number) || (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number);
        if known && !reserved.contains(&number) {
            Ok(Signal(number))
        } else {
            Err(UnknownSignal(number.to_string()))
        }
    }

    /// The signal's number.
    pub fn number(self) -> i32 {
        self.0
    }

    /// The signal's name without `SIG`, if it has one.
    pub fn name(self) -> Option<&'static str> {
        NAMES
            .iter()
            .find(|(_, number)| *number == self.0)
            .map(|(name, _)| *name)
    }
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    /// `INT`, `SIGINT`, `int` or `2`.
    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let unknown = || UnknownSignal(text.to_owned());
        if let Ok(number) = text.parse() {
            return Signal::from_number(number).map_err(|_| unknown());
        }
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        NAMES
            .iter()
            .find(|(name, _)| *name == bare)
            .map(|(_, number)| Signal(*number))
            .ok_or_else(unknown)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Blocks signals in the calling thread, and so in the threads that it starts from here on: what `main` does first with
/// the signals that its loops will subscribe to. One that comes before it is subscribed to waits.
///
/// # Errors
/// The system's.
///
/// ```
/// use yue::signal::{self, Signal};
///
/// fn main() -> std::io::Result<()> {
///     signal::block(&[Signal::USR1])?;
///     // Threads that are started from here on inherit it.
///     yue::Runtime::builder().loops(2).build()?.run(|| {
///         // … subscribe, on any loop …
///     });
///     Ok(())
/// }
/// ```
pub fn block(signals: &[Signal]) -> io::Result<()> {
    sys::mask_signals(libc::SIG_BLOCK, &set_of(signals))
}

/// Lets signals take their usual course in the calling thread again.
///
/// # Errors
/// The system's.
///
/// ```
/// use yue::signal::{self, Signal};
///
/// yue::Runtime::new()?.run(|| -> std::io::Result<()> {
///     let reload = signal::subscribe(&[Signal::USR2], |_| ())?;
///     drop(reload);
///     signal::unblock(&[Signal::USR2])?; // From now on it ends the process again.
///     Ok(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn unblock(signals: &[Signal]) -> io::Result<()> {
    sys::mask_signals(libc::SIG_UNBLOCK, &set_of(signals))
}

/// Has the process that `command` starts begin with no signal blocked, as programs expect.
///
/// A [`process::Command`](crate::process::Command) does so by itself; this is for the standard library's.
///
/// ```
/// use std::process::Command;
/// use yue::signal::{self, Signal};
///
/// signal::block(&[Signal::TERM])?;
/// // The child can be ended politely, though this thread has the signal blocked.
/// let mut child = signal::unblocked(Command::new("sleep").arg("1000")).spawn()?;
/// Command::new("sh").args(["-c", &format!("kill {}", child.id())]).status()?;
/// assert!(!child.wait()?.success());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn unblocked(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only an async-signal-safe call is made, and nothing is allocated.
    unsafe {
        command
            .pre_exec(|| sys::mask_signals(libc::SIG_SETMASK, &sys::signal_set(std::iter::empty())))
    }
}

fn set_of(signals: &[Signal]) -> libc::sigset_t {
    sys::signal_set(signals.iter().map(|signal| signal.0))
}

/// A subscriber, as every loop may see it.
struct Entry {
    id: u64,
    signals: Vec<Signal>,
    at: LoopHandle,
}

/// All subscribers of the process.
struct Hub {
    next: u64,
    entries: Vec<Entry>,
}

static HUB: Mutex<Hub> = Mutex::new(Hub {
    next: 1,
    entries: Vec::new(),
});

/// No code of the program's runs under the lock, so a poisoned one still holds a whole value.
fn hub() -> MutexGuard<'static, Hub> {
    HUB.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Local {
    id: u64,
    loop_id: u32,
    callback: Rc<dyn Fn(Signal)>,
    watch: Rc<Watch>,
}

thread_local! {
    /// The callbacks of this thread's subscriptions.
    static LOCAL: RefCell<Vec<Local>> = const { RefCell::new(Vec::new()) };
}

/// Calls `callback` on this loop, outside fibers, whenever one of the signals comes. Equal signals that come in quick
/// succession may be one call, as it is with signals. The signals are blocked in the calling thread; see [`block`] for
/// the others.
///
/// # Errors
/// When the loop's driver does no I/O, or the process is out of descriptors.
///
/// # Panics
/// Outside a loop.
///
/// ```
/// use yue::process::Command;
/// use yue::signal::{self, Signal};
/// use yue::sync::Notify;
///
/// yue::Runtime::new()?.run(|| -> std::io::Result<()> {
///     let reload = std::rc::Rc::new(Notify::new());
///     let told = reload.clone();
///     let _subscription = signal::subscribe(&[Signal::USR1], move |_| told.notify_one())?;
///     Command::new("sh").args(["-c", "kill -USR1 $PPID"]).status()?;
///     reload.notified()?;
///     Ok(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn subscribe(
    signals: &[Signal],
    callback: impl Fn(Signal) + 'static,
) -> io::Result<Subscription> {
    block(signals)?;
    let at = this_loop::handle();
    let watch = Watch::start(&set_of(signals))?;
    let id = {
        let mut hub = hub();
        let id = hub.next;
        hub.next += 1;
        hub.entries.push(Entry {
            id,
            signals: signals.to_vec(),
            at: at.clone(),
        });
        id
    };
    let local = Local {
        id,
        loop_id: at.id(),
        callback: Rc::new(callback),
        watch,
    };
    LOCAL.with_borrow_mut(|all| all.push(local));
    Ok(Subscription {
        id,
        over: Cell::new(false),
        _this_thread: std::marker::PhantomData,
    })
}

/// A callback that waits for signals; dropped, it is called no more. The signals stay blocked: see [`unblock`].
///
/// ```
/// use yue::signal::{self, Signal};
///
/// yue::Runtime::new()?.run(|| -> std::io::Result<()> {
///     let resized = signal::subscribe(&[Signal::WINCH], |_| println!("draw again"))?;
///     drop(resized); // Not called any more.
///     let reload = signal::subscribe(&[Signal::HUP], |_| println!("read the settings again"))?;
///     reload.detach(); // Called until the loop ends.
///     Ok(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Subscription {
    id: u64,
    over: Cell<bool>,
    _this_thread: std::marker::PhantomData<*const ()>,
}

impl Subscription {
    /// Keeps the callback for as long as the loop runs.
    pub fn detach(self) {
        self.over.set(true);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if !self.over.get() {
            end(self.id);
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Ends a subscription of this thread.
fn end(id: u64) {
    hub().entries.retain(|entry| entry.id != id);
    // During a thread's end the table may be gone; the subscription is then, too.
    let local = LOCAL.try_with(|all| {
        let mut all = all.borrow_mut();
        let place = all.iter().position(|local| local.id == id)?;
        Some(all.remove(place))
    });
    if let Ok(Some(local)) = local {
        local.watch.stop();
    }
}

/// The loop with that watch ends.
fn watch_ended(watch: &Watch) {
    let id = LOCAL.try_with(|all| {
        let all = all.borrow();
        all.iter()
            .find(|local| std::ptr::eq(&*local.watch, watch))
            .map(|local| local.id)
    });
    if let Ok(Some(id)) = id {
        end(id);
    }
}

/// Tells every subscriber of the process of a signal that was read on this loop.
fn announce(signal: Signal) {
    let here = this_loop::id();
    let concerned: Vec<(u64, LoopHandle)> = {
        let hub = hub();
        let concerned = hub
            .entries
            .iter()
            .filter(|entry| entry.signals.contains(&signal));
        concerned
            .map(|entry| (entry.id, entry.at.clone()))
            .collect()
    };
    for (id, at) in concerned {
        if at.id() == here {
            deliver(id, signal);
        } else {
            at.run(move || deliver(id, signal));
        }
    }
}

/// Calls the callback of a subscription of this loop, if it is still there.
fn deliver(id: u64, signal: Signal) {
    let here = this_loop::id();
    let callback = LOCAL.with_borrow(|all| {
        all.iter()
            .find(|local| local.id == id && local.loop_id == here)
            .map(|local| local.callback.clone())
    });
    if let Some(callback) = callback {
        crate::shared::guarded(|| callback(signal));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_by_name_and_by_number() {
        for text in ["INT", "SIGINT", "int", "sigint", "2"] {
            assert_eq!(text.parse(), Ok(Signal::INT), "{text}");
        }
        assert_eq!(Signal::INT.to_string(), "SIGINT");
        assert_eq!(Signal::from_number(40).unwrap().to_string(), "signal 40");
        for text in ["", "SIG", "KILL", "9", "11", "0", "65", "32", "-1", "NOPE"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }
}
