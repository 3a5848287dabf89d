//! The host: one loop's part of the Lua program that runs on it.
//!
//! There is one per loop, reached through a thread-local, like the loop itself. It owns the VM and counts the holds
//! that keep the program running. The rooms above keep their own state per loop (waits, connections, …).

pub(crate) mod entries;
pub(crate) mod errors;
pub(crate) mod failure;
pub(crate) mod handles;
pub(crate) mod log;
pub(crate) mod modules;
pub(crate) mod program;
pub(crate) mod shared;
pub(crate) mod values;

use crate::lua::host::errors::error;
use crate::lua::host::program::Program;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use yue_luajit::{Error, Vm};
use yue_rpc::ErrorKind;
use yue_scheduler::{LocalWaker, simulation};

/// The role of a loop in the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// One of the loops that run the program's script: its index, from 1.
    Main(usize),
    /// A worker thread.
    Worker {
        name: String,
        /// Callers can stop the handlers of its namespace.
        cancel: bool,
        /// It is a node of another loop's program.
        is_node: bool,
    },
}

/// One loop's part of a Lua program.
pub(crate) struct Host {
    pub(crate) vm: Vm,
    pub(crate) program: Arc<Program>,
    pub(crate) role: Role,
    holds: Cell<usize>,
    /// The main fiber, when it waits for the end of the program.
    main_waiter: Cell<Option<LocalWaker>>,
    /// Set by `yue.die`, by a shutdown, by `yue.thread.current:exit`.
    dying: Cell<bool>,
}

thread_local! {
    static HOST: RefCell<Option<Rc<Host>>> = const { RefCell::new(None) };
}

/// Keeps the program running while it lives.
pub(crate) struct Hold(Rc<Host>);

impl Drop for Hold {
    fn drop(&mut self) {
        debug_assert!(self.0.holds.get() > 0);
        self.0.holds.set(self.0.holds.get() - 1);
        if self.0.holds.get() == 0 {
            self.0.wake_main();
        }
    }
}

impl Host {
    /// Creates the host of the calling thread's loop.
    pub(crate) fn create(vm: Vm, program: Arc<Program>, role: Role) -> Rc<Host> {
        let host = Rc::new(Host {
            vm,
            program,
            role,
            holds: Cell::new(0),
            main_waiter: Cell::new(None),
            dying: Cell::new(false),
        });
        host.set_log_name();
        let before = HOST.replace(Some(host.clone()));
        debug_assert!(before.is_none(), "a thread has one host at a time");
        host
    }

    /// Takes the calling thread's host away: from now on finalizers find none. Dropping it closes the VM, unless
    /// handles of the VM are left.
    pub(crate) fn take() -> Option<Rc<Host>> {
        yue_scheduler::set_log_name("", false);
        HOST.take()
    }

    /// Keeps the program running while the result lives: something that could still call it is open.
    pub(crate) fn hold(self: &Rc<Self>) -> Hold {
        self.holds.set(self.holds.get() + 1);
        Hold(self.clone())
    }

    /// Whether nothing is left that could call the program.
    pub(crate) fn is_idle(&self) -> bool {
        self.holds.get() == 0
    }

    /// Requests the end of the program on this loop.
    pub(crate) fn die(&self) {
        self.dying.set(true);
        self.wake_main();
    }

    /// Whether the end of the program on this loop was requested.
    pub(crate) fn is_dying(&self) -> bool {
        self.dying.get()
    }

    pub(crate) fn set_main_waiter(&self, waker: LocalWaker) {
        self.main_waiter.set(Some(waker));
    }

    pub(crate) fn wake_main(&self) {
        if let Some(waker) = self.main_waiter.take() {
            waker.wake();
        }
    }

    /// Names the calling thread's loop in its log entries.
    fn set_log_name(&self) {
        match &self.role {
            Role::Main(index) => {
                let many = self.program.script.loops > 1;
                yue_scheduler::set_log_name(&format!("loop {index}"), many);
            }
            Role::Worker { name, .. } => yue_scheduler::set_log_name(name, true),
        }
    }
}

/// The number of waits that fail, while a simulated program ends, before a fiber counts as one that ignores its cancel.
const FAILED_WAITS_MAX: u32 = 10_000;

/// Called in a fiber of a simulated host whose wait was cancelled, or whose call failed. No guard ends a program there
/// whose code catches the error and continues. So the fiber is ended when the machine is switched off or the simulation
/// has ended, and at the end of the program when it has ignored its cancel for long.
#[cold]
pub(crate) fn end_stubborn_fiber() {
    thread_local!(static FAILED_WAITS: Cell<u32> = const { Cell::new(0) });
    // When the whole simulation has ended, no program has anything left to do.
    let is_over = simulation::stopped().is_some();
    let Some(host) = current().filter(|host| is_over || host.is_dying()) else {
        return;
    };
    FAILED_WAITS.set(FAILED_WAITS.get() + 1);
    if is_over || host.program.is_abrupt() || FAILED_WAITS.get() > FAILED_WAITS_MAX {
        yue_luajit::interrupt_self();
    }
}

/// The calling thread's host.
pub(crate) fn current() -> Option<Rc<Host>> {
    HOST.try_with(|host| host.borrow().clone()).ok().flatten()
}

/// Runs `f` with the calling thread's host. `f` must not suspend and must not call Lua.
pub(crate) fn with_host<R>(f: impl FnOnce(&Rc<Host>) -> R) -> Result<R, Error> {
    HOST.with_borrow(|host| host.as_ref().map(f))
        .ok_or_else(|| error(ErrorKind::Runtime, "the program has ended on this thread"))
}
