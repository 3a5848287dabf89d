//! Signals in Lua: subscriptions whose deliveries wake the fiber that waits for them.

use crate::lua::host::errors::{error, stopped};
use crate::lua::host::with_host;
use crate::lua::native::{native, register};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use yue_io::signal::{self, Signal};
use yue_luajit::{Stack, ffi};
use yue_rpc::ErrorKind;
use yue_scheduler::simulation::{self, PerHost};
use yue_scheduler::{LocalWaker, park, prepare_park};

/// The signals that programs can name. KILL and STOP cannot be caught; those that indicate a broken program should not
/// be.
const NAMES: &[(&str, i32)] = &[
    ("SIGHUP", libc::SIGHUP),
    ("SIGINT", libc::SIGINT),
    ("SIGQUIT", libc::SIGQUIT),
    ("SIGUSR1", libc::SIGUSR1),
    ("SIGUSR2", libc::SIGUSR2),
    ("SIGPIPE", libc::SIGPIPE),
    ("SIGALRM", libc::SIGALRM),
    ("SIGTERM", libc::SIGTERM),
    ("SIGCHLD", libc::SIGCHLD),
    ("SIGCONT", libc::SIGCONT),
    ("SIGTSTP", libc::SIGTSTP),
    ("SIGTTIN", libc::SIGTTIN),
    ("SIGTTOU", libc::SIGTTOU),
    ("SIGURG", libc::SIGURG),
    ("SIGWINCH", libc::SIGWINCH),
    ("SIGIO", libc::SIGIO),
];

/// The number of programs' subscriptions, by signal. Relaxed: a signal that arrives at the very moment of a change may
/// see either state.
static BOUND: PerHost<[AtomicU32; 65]> = PerHost::new(|| [const { AtomicU32::new(0) }; 65]);

/// Whether a program handles that signal itself.
pub(crate) fn is_bound(number: i32) -> bool {
    let bound = BOUND.get();
    usize::try_from(number)
        .ok()
        .and_then(|index| bound.get(index))
        .is_some_and(|n| n.load(Ordering::Relaxed) > 0)
}

thread_local! {
    /// The subscriptions of this loop, by their number in Lua, and the last number.
    static OPEN: RefCell<HashMap<u32, Rc<Bound>>> = RefCell::default();
    static LAST: Cell<u32> = const { Cell::new(0) };
}

/// Drops this room's state at the end of the loop.
pub(crate) fn clear() {
    let all = OPEN.take();
    drop(all);
}

fn find(id: f64) -> Option<Rc<Bound>> {
    OPEN.with_borrow(|open| open.get(&(id as u32)).cloned())
}

struct Bound {
    number: i32,
    /// `None` once it is closed.
    subscription: Cell<Option<signal::Subscription>>,
    arrived: Cell<u32>,
    waiter: Cell<Option<LocalWaker>>,
}

impl Bound {
    /// Restores the signal's previous action. A fiber that waits may hold this for a little longer.
    fn close(&self) {
        if let Some(subscription) = self.subscription.take() {
            BOUND.get()[self.number as usize].fetch_sub(1, Ordering::Relaxed);
            drop(subscription);
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.close();
    }
}

native! {
    SignalOpen = "signal_open", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> f64 {
        let number = number as i32;
        let signal = Signal::from_number(number).ok().filter(|_| NAMES.iter().any(|(_, known)| *known == number));
        let Some(signal) = signal else {
            return Err(error(ErrorKind::Argument, format!("signal {number} cannot be bound; see yue.const.SIG…")));
        };
        let bound = Rc::new(Bound {
            number,
            subscription: Cell::new(None),
            arrived: Cell::new(0),
            waiter: Cell::new(None),
        });
        let receiver = Rc::downgrade(&bound);
        // A finalizer may call this when the loop has ended.
        with_host(|_| ())?;
        // Earlier: the shutdown's guard must find it when the first signal arrives.
        BOUND.get()[number as usize].fetch_add(1, Ordering::Relaxed);
        // The signals of the real process are not the simulated hosts': none arrives there.
        let signals: &[Signal] = if simulation::is_on() { &[] } else { &[signal] };
        let subscription = signal::subscribe(signals, move |_| {
            if let Some(bound) = receiver.upgrade() {
                bound.arrived.set(bound.arrived.get() + 1);
                bound.waiter.take().map(LocalWaker::wake);
            }
        });
        match subscription {
            Ok(subscription) => bound.subscription.set(Some(subscription)),
            Err(failure) => {
                BOUND.get()[number as usize].fetch_sub(1, Ordering::Relaxed);
                return Err(error(ErrorKind::Runtime, format!("cannot bind signal {number}: {failure}")));
            }
        }
        let id = LAST.get() + 1;
        LAST.set(id);
        OPEN.with_borrow_mut(|open| open.insert(id, bound));
        Ok(f64::from(id))
    }
}

native! {
    /// Waits for one delivery: returns true, or false when the subscription was closed.
    SignalWait = "signal_wait", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> bool {
        loop {
            let Some(bound) = find(id) else { return Ok(false) };
            if let Some(rest) = bound.arrived.get().checked_sub(1) {
                bound.arrived.set(rest);
                return Ok(true);
            }
            bound.waiter.set(Some(prepare_park()));
            park("a signal").map_err(stopped)?;
        }
    }
}

native! {
    /// Whether the process was started with the signal ignored.
    IsSignalIgnored = "is_signal_ignored", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> bool {
        let signal = Signal::from_number(number as i32);
        Ok(signal.is_ok_and(signal::is_ignored))
    }
}

native! {
    SignalClose = "signal_close", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> () {
        let bound = OPEN.with_borrow_mut(|open| open.remove(&(id as u32)));
        if let Some(bound) = bound {
            bound.close();
            bound.waiter.take().map(LocalWaker::wake);
        }
        Ok(())
    }
}

/// Pushes the table of `yue.const`. May raise.
fn push_constants(stack: Stack<'_>) {
    let state = stack.raw();
    // SAFETY: `Stack` promises a valid state where errors may be raised.
    unsafe {
        ffi::lua_createtable(state, 0, NAMES.len() as i32);
        for (name, number) in NAMES {
            stack.push_bytes(name.as_bytes());
            stack.push_number(f64::from(*number));
            ffi::lua_rawset(state, -3);
        }
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; SignalOpen, SignalWait, SignalClose, IsSignalIgnored);
    push_constants(stack);
    // SAFETY: `Stack` promises a valid state where errors may be raised; the table is below the constants.
    unsafe { ffi::lua_setfield(stack.raw(), -2, c"signals".as_ptr()) };
}
