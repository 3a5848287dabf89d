//! The state that all loops of a program share: its script, its loops, and the beginning of its end.

use crate::lua::host::errors::ErrorObject;
use crate::lua::host::shared::Shared;
use crate::lua::script::Script;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use yue_io::signal::Signal;
use yue_luajit::Stack;
use yue_rpc::WeakSocket;
use yue_scheduler::{Instant, LoopHandle, lock};

/// The time that requests which are being served have when the program ends.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// The shared state of a program's loops.
pub(crate) struct Program {
    pub(crate) script: Script,
    /// The calls out of a simulation that it lets through; see [`Sim::allow`](crate::sim::Sim::allow).
    pub(crate) allowed: Vec<String>,
    /// Adds the natives to the table on top of the stack, in each VM of the program. May raise.
    pub(crate) natives: fn(Stack<'_>),
    /// The loops of the program, with the ids of their threads.
    members: Mutex<Vec<(LoopHandle, libc::pid_t)>>,
    /// Ports at which its loops listen together.
    pub(crate) shared_ports: Shared<u16>,
    pub(crate) shared_sockets: Shared<WeakSocket>,
    /// Set when a shutdown has begun.
    ending: OnceLock<Ending>,
    guard: Mutex<Option<Sender<Notice>>>,
    terminal_runs: AtomicBool,
    /// Whether the process ends at once, without any clean-up: its simulated machine is switched off.
    is_abrupt: AtomicBool,
    /// The first error that has ended a script of the program.
    failure: OnceLock<ErrorObject>,
}

/// The reason why a program is being shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// By `yue.die`.
    Program,
    /// The script has raised on one of its loops.
    Raised,
    Signal(Signal),
    /// By `os.exit` of a simulated host, with this code.
    Exited(i32),
    /// The simulated host was switched off.
    SwitchedOff,
}

impl Cause {
    fn is_abrupt(self) -> bool {
        matches!(self, Cause::Exited(_) | Cause::SwitchedOff)
    }
}

struct Ending {
    cause: Cause,
    begun: Instant,
}

/// A message to the thread that guards the shutdown.
pub(crate) enum Notice {
    Signal(Signal),
    /// A shutdown has begun, for any cause.
    ShutDown,
}

impl Program {
    /// A program that is not running yet.
    pub(crate) fn new(
        script: Script,
        natives: fn(Stack<'_>),
        allowed: Vec<String>,
    ) -> Arc<Program> {
        Arc::new(Program {
            script: Script {
                loops: script.loops.max(1),
                ..script
            },
            natives,
            allowed,
            members: Mutex::default(),
            shared_ports: Shared::default(),
            shared_sockets: Shared::default(),
            ending: OnceLock::new(),
            guard: Mutex::default(),
            terminal_runs: AtomicBool::new(false),
            is_abrupt: AtomicBool::new(false),
            failure: OnceLock::new(),
        })
    }

    /// Requests the end on every loop of the program. The first cause counts.
    pub(crate) fn shut_down(&self, cause: Cause) {
        if cause.is_abrupt() {
            self.is_abrupt.store(true, Ordering::Relaxed);
        }
        self.ending.get_or_init(|| Ending {
            cause,
            begun: Instant::system(),
        });
        if let Some(guard) = &*lock(&self.guard) {
            let _ = guard.send(Notice::ShutDown);
        }
        for (handle, _) in lock(&self.members).iter() {
            handle.shutdown();
        }
    }

    /// The cause of the shutdown, if there is one.
    pub(crate) fn cause(&self) -> Option<Cause> {
        self.ending.get().map(|ending| ending.cause)
    }

    /// Whether the process ends at once, without any clean-up.
    pub(crate) fn is_abrupt(&self) -> bool {
        self.is_abrupt.load(Ordering::Relaxed)
    }

    /// The time when running work is cancelled, if a shutdown has begun.
    pub(crate) fn grace_ends(&self) -> Option<Instant> {
        let ending = self.ending.get()?;
        Some(ending.begun.saturating_add(GRACE))
    }

    /// Notes the error that has ended a script. The first one counts.
    pub(crate) fn note_failure(&self, failure: ErrorObject) {
        self.failure.get_or_init(|| failure);
    }

    /// The error that has ended a script.
    pub(crate) fn failure(&self) -> Option<&ErrorObject> {
        self.failure.get()
    }

    /// Whether a terminal reads lines, and so takes Ctrl-C.
    pub(crate) fn terminal_runs(&self) -> bool {
        // Relaxed: it guards no other data, here and below.
        self.terminal_runs.load(Ordering::Relaxed)
    }

    pub(crate) fn set_terminal_runs(&self, runs: bool) {
        self.terminal_runs.store(runs, Ordering::Relaxed);
    }

    pub(crate) fn set_guard(&self, guard: Option<Sender<Notice>>) {
        *lock(&self.guard) = guard;
    }

    /// The loops of the program, with the ids of their threads.
    pub(crate) fn members(&self) -> Vec<(LoopHandle, libc::pid_t)> {
        lock(&self.members).clone()
    }

    /// Makes the calling thread's loop one of the program's.
    pub(crate) fn add_loop(&self, handle: LoopHandle) {
        let thread = yue_scheduler::thread_id();
        let mut members = lock(&self.members);
        debug_assert!(members.iter().all(|(member, _)| member.id() != handle.id()));
        // The lock orders this with the read of the members in a shutdown: either that finds the loop, or this finds
        // that the shutdown has begun.
        members.push((handle.clone(), thread));
        drop(members);
        if self.ending.get().is_some() {
            handle.shutdown();
        }
    }

    /// Removes a loop that has ended.
    pub(crate) fn remove_loop(&self, id: u32) {
        lock(&self.members).retain(|(handle, _)| handle.id() != id);
    }
}
