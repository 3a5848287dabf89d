//! Unix signals, delivered on loops.
//!
//! ```text
//!   kernel ──▶ a handler, on any thread ──▶ the thread "yue signals" ──▶ every subscriber, through its loop's inbox
//! ```
//!
//! While a signal has a subscriber, a handler takes it, on whichever thread it arrives: also on one that computes, or
//! that the program or a C library started. So the signal's default action is off from the moment that [`subscribe`]
//! returns, and back with the end of the last subscription. Only signals that somebody subscribed to are touched; all
//! loops are alike, and any of them may end.
//!
//! Nothing is blocked, and a program that is executed starts without handlers: child processes begin as if nobody had
//! subscribed, however they are started. A signal may interrupt a system call that the system does not restart (poll,
//! nanosleep; see signal(7)) in foreign code; a thread that must not see that may [`block`] the signal, which is then
//! taken on another.
//!
//! ```
//! use yue::process::Command;
//! use yue::signal::{self, Signal};
//!
//! yue::Runtime::new()?.run(|| -> std::io::Result<()> {
//!     let (told, heard) = yue::sync::local::channel(1);
//!     let _subscription = signal::subscribe(&[Signal::HUP], move |signal| {
//!         let _ = told.try_send(signal); // One that waits already is enough.
//!     })?;
//!     Command::new("sh").args(["-c", "kill -HUP $PPID"]).status()?; // An operator's part.
//!     assert_eq!(heard.recv().unwrap(), Signal::HUP);
//!     Ok(())
//! })?;
//! # Ok::<(), std::io::Error>(())
//! ```

mod forward;
mod name;

use crate::driver::{Backend, backend};
use crate::shared::{Member, guarded};
use crate::sys;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use yue_scheduler::{LoopHandle, this_loop};

pub use name::{Signal, UnknownSignal};

/// Blocks signals in the calling thread, and so in the threads that it starts from here on. One that all threads block
/// waits until it is subscribed to, or unblocked: what `main` does first with a signal that may come before its loops
/// are ready.
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

/// Ends [`block`] in the calling thread.
///
/// # Errors
/// The system's.
///
/// ```
/// use yue::signal::{self, Signal};
///
/// signal::block(&[Signal::USR2])?;
/// // … what must not be interrupted …
/// signal::unblock(&[Signal::USR2])?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn unblock(signals: &[Signal]) -> io::Result<()> {
    sys::mask_signals(libc::SIG_UNBLOCK, &set_of(signals))
}

/// Has the process that `command` starts begin with no signal blocked, as programs expect, though the calling thread
/// has some blocked.
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

/// Whether the process ignores a signal. At the start of a program that is its parent's wish: a shell ignores SIGINT
/// for what it starts in the background, `nohup` ignores SIGHUP. Programs leave such signals alone.
///
/// ```
/// use yue::signal::{self, Signal};
///
/// assert!(!signal::is_ignored(Signal::USR1));
/// ```
pub fn is_ignored(signal: Signal) -> bool {
    sys::signal_action(signal.0) == libc::SIG_IGN
}

/// Ends the process by that signal, as its default action would: the parent sees that it died of the signal. Nothing
/// is flushed, and no destructor runs.
///
/// ```no_run
/// use yue::signal::{self, Signal};
///
/// signal::end_process_by(Signal::TERM)
/// ```
pub fn end_process_by(signal: Signal) -> ! {
    // SAFETY: sets an action, unblocks the signal and sends it to this thread; all numbers are a signal's.
    unsafe {
        libc::signal(signal.0, libc::SIG_DFL);
        let _ = unblock(&[signal]);
        libc::raise(signal.0);
        // Its default action ends no process, or this is process 1 of a container, which a default action spares.
        libc::_exit(128 + signal.0)
    }
}

fn set_of(signals: &[Signal]) -> libc::sigset_t {
    sys::signal_set(signals.iter().map(|signal| signal.0))
}

/// A subscriber, as every thread may see it.
struct Entry {
    id: u64,
    signals: Vec<Signal>,
    target: Target,
}

#[derive(Clone)]
enum Target {
    /// A callback in `LOCAL`, on the thread of that loop.
    Loop(LoopHandle),
    OffLoop(Arc<dyn Fn(Signal) + Send + Sync>),
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
    backend: Backend,
    /// Where [`AtLoopEnd`] is entered.
    place: usize,
}

thread_local! {
    /// The callbacks of this thread's subscriptions.
    static LOCAL: RefCell<Vec<Local>> = const { RefCell::new(Vec::new()) };
}

/// Calls `callback` on this loop, outside fibers, whenever one of the signals comes. Equal signals that come in quick
/// succession may be one call, as it is with signals. When this returns, the default action of the signals is off in
/// the whole process; it is back when the last subscription is dropped.
///
/// # Errors
/// When the loop's driver does no I/O, or the system gives no thread; nothing is changed then.
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
    let backend = backend()?;
    let at = this_loop::handle();
    let loop_id = at.id();
    let id = enter(signals, Target::Loop(at))?;
    let place = backend.shared().enter(Rc::new(AtLoopEnd(id)));
    let local = Local {
        id,
        loop_id,
        callback: Rc::new(callback),
        backend,
        place,
    };
    LOCAL.with_borrow_mut(|all| all.push(local));
    Ok(Subscription::of(id))
}

/// As [`subscribe`], but calls `callback` on a thread of its own that takes the process's signals: it is called at
/// once, also while every loop computes or is blocked. It delays the other subscribers, so it should only pass the
/// signal on; it must not wait for a loop.
///
/// ```
/// use std::sync::mpsc;
/// use yue::process::Command;
/// use yue::signal::{self, Signal};
///
/// let (told, heard) = mpsc::channel();
/// let subscription = signal::subscribe_off_loop(&[Signal::USR1], move |signal| {
///     let _ = told.send(signal);
/// })?;
/// std::process::Command::new("sh").args(["-c", "kill -USR1 $PPID"]).status()?;
/// assert_eq!(heard.recv(), Ok(Signal::USR1));
/// drop(subscription); // From here on it ends the process again.
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// When the system gives no thread; nothing is changed then.
pub fn subscribe_off_loop(
    signals: &[Signal],
    callback: impl Fn(Signal) + Send + Sync + 'static,
) -> io::Result<Subscription> {
    enter(signals, Target::OffLoop(Arc::new(callback))).map(Subscription::of)
}

/// Makes an entry in the hub. The entry is there first: a signal that the handler takes finds it.
fn enter(signals: &[Signal], target: Target) -> io::Result<u64> {
    let id = {
        let mut hub = hub();
        let id = hub.next;
        hub.next += 1;
        hub.entries.push(Entry {
            id,
            signals: signals.to_vec(),
            target,
        });
        id
    };
    forward::acquire(signals)
        .inspect_err(|_| hub().entries.retain(|entry| entry.id != id))
        .map(|()| id)
}

/// A callback that waits for signals; dropped, it is called no more, and a signal without subscribers has its default
/// action again (or the action that the program had given it).
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
    fn of(id: u64) -> Subscription {
        Subscription {
            id,
            over: Cell::new(false),
            _this_thread: std::marker::PhantomData,
        }
    }

    /// Keeps the callback for as long as the loop runs; one of [`subscribe_off_loop`] for as long as the process runs.
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

/// Ends a subscription, once: of this thread, or one without a loop.
fn end(id: u64) {
    let entry = {
        let mut hub = hub();
        let found = hub.entries.iter().position(|entry| entry.id == id);
        found.map(|place| hub.entries.swap_remove(place))
    };
    let Some(entry) = entry else { return };
    forward::release(&entry.signals);
    // During a thread's end the table may be gone; the subscription is then, too.
    let local = LOCAL.try_with(|all| {
        let mut all = all.borrow_mut();
        let place = all.iter().position(|local| local.id == id)?;
        Some(all.swap_remove(place))
    });
    if let Ok(Some(local)) = local {
        local.backend.shared().leave(local.place);
    }
}

/// Ends a subscription with its loop.
struct AtLoopEnd(u64);

impl Member for AtLoopEnd {
    fn deferred(self: Rc<Self>) -> bool {
        false
    }

    fn abort(self: Rc<Self>) {
        end(self.0);
    }
}

impl Drop for AtLoopEnd {
    fn drop(&mut self) {
        end(self.0);
    }
}

/// Tells every subscriber of a signal. On the thread that takes them.
fn announce(signal: Signal) {
    let concerned: Vec<(u64, Target)> = {
        let hub = hub();
        let concerned = hub
            .entries
            .iter()
            .filter(|entry| entry.signals.contains(&signal));
        concerned
            .map(|entry| (entry.id, entry.target.clone()))
            .collect()
    };
    if concerned.is_empty() {
        forward::give_back(signal);
    }
    for (id, target) in concerned {
        match target {
            Target::Loop(at) => at.run(move || deliver(id, signal)),
            Target::OffLoop(callback) => drop(guarded(|| callback(signal))),
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
        guarded(|| callback(signal));
    }
}
