//! Unix signals, delivered to loops.
//!
//! ```text
//!   kernel ──▶ a handler, on any thread ──▶ the thread "yue signals" ──▶ every subscriber, through its loop's inbox
//! ```
//!
//! While a signal has a subscriber, a handler takes it on whichever thread it arrives, including threads that compute
//! and threads started by the program or a C library. So the signal's default action is off when [`subscribe`] returns,
//! and it is restored when the last subscription ends. Only subscribed signals are affected. All loops are equal, and
//! any of them may end.
//!
//! No signal is blocked, and an executed program starts without handlers: child processes begin as if there were no
//! subscriptions, however they are started. In foreign code a signal may interrupt a system call that the kernel does
//! not restart (poll, nanosleep; see signal(7)). A thread that must not see that may [`block`] the signal, which
//! another thread then takes.
//!
//! ```
//! use yue_io::process::Command;
//! use yue_io::signal::{self, Signal};
//!
//! yue_io::run(|| -> std::io::Result<()> {
//!     let (sender, receiver) = yue_scheduler::sync::local::channel(1);
//!     let _subscription = signal::subscribe(&[Signal::HUP], move |signal| {
//!         let _ = sender.try_send(signal); // One pending signal is enough.
//!     })?;
//!     Command::new("sh").args(["-c", "kill -HUP $PPID"]).status()?; // As an operator would.
//!     assert_eq!(receiver.recv().unwrap(), Signal::HUP);
//!     Ok(())
//! })??;
//! # Ok::<(), std::io::Error>(())
//! ```

mod forward;
mod name;

use crate::driver::members::{Member, run_callback};
use crate::driver::{Backend, backend};
use crate::sys;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use yue_scheduler::{LoopHandle, SignalSet, this_loop};

pub use name::{Signal, UnknownSignal};

/// Blocks signals in the calling thread, and in the threads that it starts from now on. A signal that all threads block
/// waits until it is subscribed to or unblocked. Call it first in `main` for a signal that may arrive before the loops
/// are ready.
///
/// # Errors
/// The system's error.
///
/// ```
/// use yue_io::signal::{self, Signal};
///
/// fn main() -> std::io::Result<()> {
///     signal::block(&[Signal::USR1])?;
///     // Threads started from here on inherit the mask.
///     yue_io::run(|| {
///         // … subscribe, on any loop …
///     })
/// }
/// ```
pub fn block(signals: &[Signal]) -> io::Result<()> {
    set_of(signals).block();
    Ok(())
}

/// Reverses [`block`] in the calling thread.
///
/// # Errors
/// The system's error.
pub fn unblock(signals: &[Signal]) -> io::Result<()> {
    set_of(signals).unblock();
    Ok(())
}

/// Makes the process that `command` starts begin with no signal blocked, as programs expect, even if the calling thread
/// has blocked some.
///
/// [`process::Command`](crate::process::Command) does this by itself; this function is for the standard library's
/// command.
///
/// ```
/// use std::process::Command;
/// use yue_io::signal::{self, Signal};
///
/// signal::block(&[Signal::TERM])?;
/// // The child can be terminated, though this thread has the signal blocked.
/// let mut child = signal::unblocked(Command::new("sleep").arg("1000")).spawn()?;
/// Command::new("sh").args(["-c", &format!("kill {}", child.id())]).status()?;
/// assert!(!child.wait()?.success());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn unblocked(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only an async-signal-safe call is made, and nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            SignalSet::of([]).set_mask();
            Ok(())
        })
    }
}

/// Whether the process ignores a signal. At the start of a program that is its parent's choice: a shell ignores SIGINT
/// for background jobs, and `nohup` ignores SIGHUP. Programs leave such signals alone.
pub fn is_ignored(signal: Signal) -> bool {
    sys::signal_action(signal.0) == libc::SIG_IGN
}

/// Ends the process by a signal, as the signal's default action would: the parent sees that the process died of the
/// signal. Nothing is flushed, and no destructor runs.
///
/// ```no_run
/// use yue_io::signal::{self, Signal};
///
/// signal::end_process_by(Signal::TERM)
/// ```
pub fn end_process_by(signal: Signal) -> ! {
    // SAFETY: sets an action, unblocks the signal and sends it to this thread; the number is a valid signal's.
    unsafe {
        libc::signal(signal.0, libc::SIG_DFL);
        let _ = unblock(&[signal]);
        libc::raise(signal.0);
        // The default action does not end processes, or this is process 1 of a container, which is exempt from it.
        libc::_exit(128 + signal.0)
    }
}

fn set_of(signals: &[Signal]) -> SignalSet {
    SignalSet::of(signals.iter().map(|signal| signal.0))
}

/// A subscriber, in the form that all threads share.
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

/// Locks the hub. None of the program's code runs under the lock, so a poisoned lock still holds a consistent value.
fn hub() -> MutexGuard<'static, Hub> {
    yue_scheduler::lock(&HUB)
}

struct Local {
    id: u64,
    loop_id: u32,
    callback: Rc<dyn Fn(Signal)>,
    backend: Backend,
    /// The index of [`AtLoopEnd`] among the driver's members.
    member: usize,
}

thread_local! {
    /// The callbacks of this thread's subscriptions.
    static LOCAL: RefCell<Vec<Local>> = const { RefCell::new(Vec::new()) };
}

/// Calls `callback` on this loop, outside fibers, whenever one of the signals arrives. As usual with signals, several
/// equal signals in quick succession may cause one call. When this returns, the default action of the signals is off in
/// the whole process. It is restored when the last subscription is dropped.
///
/// # Errors
/// When the loop's driver does no I/O, or the system refuses a thread. Nothing has then changed.
///
/// # Panics
/// Outside a loop.
///
/// ```
/// use yue_io::process::Command;
/// use yue_io::signal::{self, Signal};
/// use yue_scheduler::sync::Notify;
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let reload = std::rc::Rc::new(Notify::new());
///     let callback_reload = reload.clone();
///     let _subscription = signal::subscribe(&[Signal::USR1], move |_| callback_reload.notify_one())?;
///     Command::new("sh").args(["-c", "kill -USR1 $PPID"]).status()?;
///     reload.notified()?;
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn subscribe(
    signals: &[Signal],
    callback: impl Fn(Signal) + 'static,
) -> io::Result<Subscription> {
    let backend = backend()?;
    let target = this_loop::handle();
    let loop_id = target.id();
    let id = add_entry(signals, Target::Loop(target))?;
    let member = backend.members().add(Rc::new(AtLoopEnd(id)));
    let local = Local {
        id,
        loop_id,
        callback: Rc::new(callback),
        backend,
        member,
    };
    LOCAL.with_borrow_mut(|all| all.push(local));
    Ok(Subscription::of(id))
}

/// Like [`subscribe`], but calls `callback` on the thread that takes the process's signals: at once, even while every
/// loop computes or blocks. The callback delays other subscribers, so it should only pass the signal on. It must not
/// wait for a loop.
///
/// ```
/// use std::sync::mpsc;
/// use yue_io::process::Command;
/// use yue_io::signal::{self, Signal};
///
/// let (sender, receiver) = mpsc::channel();
/// let subscription = signal::subscribe_off_loop(&[Signal::USR1], move |signal| {
///     let _ = sender.send(signal);
/// })?;
/// std::process::Command::new("sh").args(["-c", "kill -USR1 $PPID"]).status()?;
/// assert_eq!(receiver.recv(), Ok(Signal::USR1));
/// drop(subscription); // From here on the signal ends the process again.
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// When the system refuses a thread. Nothing has then changed.
pub fn subscribe_off_loop(
    signals: &[Signal],
    callback: impl Fn(Signal) + Send + Sync + 'static,
) -> io::Result<Subscription> {
    add_entry(signals, Target::OffLoop(Arc::new(callback))).map(Subscription::of)
}

/// Adds an entry to the hub before the handler is installed, so that every signal that the handler takes finds it.
fn add_entry(signals: &[Signal], target: Target) -> io::Result<u64> {
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

/// A subscription to signals. Dropping it ends the calls of its callback. A signal without subscribers has its default
/// action again (or the action that the program had set).
///
/// ```
/// use yue_io::signal::{self, Signal};
///
/// yue_io::run(|| -> std::io::Result<()> {
///     let resized = signal::subscribe(&[Signal::WINCH], |_| println!("draw again"))?;
///     drop(resized); // No longer called.
///     let reload = signal::subscribe(&[Signal::HUP], |_| println!("read the settings again"))?;
///     reload.detach(); // Called until the loop ends.
///     Ok(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Subscription {
    id: u64,
    ended: Cell<bool>,
    _this_thread: std::marker::PhantomData<*const ()>,
}

impl Subscription {
    fn of(id: u64) -> Subscription {
        Subscription {
            id,
            ended: Cell::new(false),
            _this_thread: std::marker::PhantomData,
        }
    }

    /// Keeps the callback for as long as the loop runs; a callback of [`subscribe_off_loop`] for as long as the process
    /// runs.
    pub fn detach(self) {
        self.ended.set(true);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if !self.ended.get() {
            end_subscription(self.id);
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

/// Ends a subscription of this thread, or one without a loop. Calling it again does nothing.
fn end_subscription(id: u64) {
    let entry = {
        let mut hub = hub();
        let found = hub.entries.iter().position(|entry| entry.id == id);
        found.map(|index| hub.entries.swap_remove(index))
    };
    let Some(entry) = entry else { return };
    forward::release(&entry.signals);
    // While a thread ends, the table may have been dropped already, and the subscription with it.
    let local = LOCAL.try_with(|all| {
        let mut all = all.borrow_mut();
        let index = all.iter().position(|local| local.id == id)?;
        Some(all.swap_remove(index))
    });
    if let Ok(Some(local)) = local {
        local.backend.members().remove(local.member);
    }
}

/// Ends a subscription with its loop.
struct AtLoopEnd(u64);

impl Member for AtLoopEnd {
    fn on_turn(self: Rc<Self>) -> bool {
        false
    }

    fn on_shutdown(self: Rc<Self>) {
        end_subscription(self.0);
    }
}

impl Drop for AtLoopEnd {
    fn drop(&mut self) {
        end_subscription(self.0);
    }
}

/// Notifies every subscriber of a signal. Runs on the thread that takes the signals.
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
        forward::run_previous_action(signal);
    }
    for (id, target) in concerned {
        match target {
            Target::Loop(target) => target.run(move || deliver(id, signal)),
            Target::OffLoop(callback) => drop(run_callback(|| callback(signal))),
        }
    }
}

/// Calls the callback of a subscription of this loop, if it still exists.
fn deliver(id: u64, signal: Signal) {
    let here = this_loop::id();
    let callback = LOCAL.with_borrow(|all| {
        all.iter()
            .find(|local| local.id == id && local.loop_id == here)
            .map(|local| local.callback.clone())
    });
    if let Some(callback) = callback {
        run_callback(|| callback(signal));
    }
}
