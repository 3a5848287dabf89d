//! Programs: their loops, and their end.
//!
//! ```text
//!   thread 1 .. N   Loop::run ── main fiber ── Host::start ── the script's fiber
//!                                   └── waits until: nothing holds the program, a shutdown, yue.die, or the script
//!                                       has raised
//! ```
//!
//! A program ends when its script has returned and nothing that could still call it is open: everything of that kind
//! keeps a [`Hold`](crate::lua::host::Hold). On SIGINT and SIGTERM it ends gracefully; `shutdown.rs` ensures that the end
//! comes.

pub(crate) mod repl;
pub(crate) mod report;
pub(crate) mod shutdown;
pub(crate) mod threads;

use crate::lua::fibers::waits::seconds;
use crate::lua::host::errors::ErrorObject;
use crate::lua::host::shared::Shared;
use crate::lua::host::{Host, Role, with_host};
use crate::lua::native::{native, register};
use crate::lua::program::shutdown::{GRACE, Guard, Notice};
use crate::lua::program::threads;
use crate::lua::{Chunk, Script};
use crate::system::handle_broken_pipes;
use std::cell::Cell;
use std::ffi::CString;
use std::rc::Rc;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{self, Duration};
use yue_io::signal::Signal;
use yue_io::stdio::flush_buffers;
use yue_luajit::{Ended, LuaState, Stack};
use yue_rpc::{ErrorKind, WeakSocket};
use yue_scheduler::{
    Config, Instant, Loop, LoopHandle, park, park_until, prepare_park, sleep, spawn, this_loop,
};

/// The time that connections have to send what they have written, when a program ends by an error.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A program, as all of its loops share it.
pub(crate) struct Program {
    pub(crate) script: Script,
    /// The loops of the program, with the ids of their threads.
    members: Mutex<Vec<(LoopHandle, libc::pid_t)>>,
    /// Ports at which its loops listen together.
    pub(crate) shared_ports: Shared<u16>,
    pub(crate) shared_sockets: Shared<WeakSocket>,
    /// A shutdown has begun.
    ending: OnceLock<Ending>,
    guard: Mutex<Option<Sender<Notice>>>,
}

/// The reason why a program is being shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// By `yue.die`.
    Program,
    /// The script has raised on one of its loops.
    Raised,
    Signal(Signal),
}

struct Ending {
    cause: Cause,
    begun: time::Instant,
}

/// Locks a mutex and ignores poison: no code of the program's runs under it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Program {
    /// A program that is not running yet.
    pub(crate) fn new(script: Script) -> Arc<Program> {
        Arc::new(Program {
            script: Script {
                loops: script.loops.max(1),
                ..script
            },
            members: Mutex::default(),
            shared_ports: Shared::default(),
            shared_sockets: Shared::default(),
            ending: OnceLock::new(),
            guard: Mutex::default(),
        })
    }

    /// Runs the program to its end and returns the process's exit code.
    pub(crate) fn run(self: &Arc<Self>) -> i32 {
        handle_broken_pipes();
        crate::lua::program::report::set_program(self);
        let guard = Guard::start(self);
        let others: Vec<_> = (2..=self.script.loops)
            .map(|index| {
                let program = self.clone();
                let spawned = std::thread::Builder::new()
                    .name(format!("yue loop {index}"))
                    .spawn(move || run_loop(&program, index));
                spawned.inspect_err(|error| {
                    yue_scheduler::log(
                        yue_scheduler::LogLevel::Error,
                        format_args!("cannot start a thread for another loop: {error}"),
                    );
                    self.shut_down(Cause::Raised);
                })
            })
            .collect();
        let mut code = run_loop(self, 1);
        for other in others {
            let other_code = other.map_or(Ok(1), std::thread::JoinHandle::join);
            code = code.max(other_code.unwrap_or(1));
        }
        threads::end_all();
        // While the guard watches: nobody may be reading.
        flush_buffers();
        drop(guard);
        match self.cause() {
            Some(Cause::Signal(signal)) => 128 + signal.number(),
            _ => code,
        }
    }

    /// Tells every loop of the program to end. The first cause counts.
    pub(crate) fn shut_down(&self, cause: Cause) {
        self.ending.get_or_init(|| Ending {
            cause,
            begun: time::Instant::now(),
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

    /// The time when running work is cancelled, if a shutdown has begun.
    pub(crate) fn grace_ends(&self) -> Option<time::Instant> {
        self.ending.get().map(|ending| ending.begun + GRACE)
    }

    pub(crate) fn set_guard(&self, guard: Option<Sender<Notice>>) {
        *lock(&self.guard) = guard;
    }

    /// The loops of the program, with the ids of their threads.
    pub(crate) fn members(&self) -> Vec<(LoopHandle, libc::pid_t)> {
        lock(&self.members).clone()
    }

    /// Makes the calling thread's loop one of the program's.
    pub(crate) fn enlist(&self, handle: LoopHandle) {
        // SAFETY: a query only. (glibc has gettid from 2.30 on only.)
        let thread = unsafe { libc::syscall(libc::SYS_gettid) } as libc::pid_t;
        // The lock orders this with the read of the members in a shutdown.
        lock(&self.members).push((handle.clone(), thread));
        if self.ending.get().is_some() {
            handle.shutdown();
        }
    }

    pub(crate) fn dismiss(&self, id: u32) {
        lock(&self.members).retain(|(handle, _)| handle.id() != id);
    }
}

/// Runs one of the program's main loops on the calling thread; returns its exit code. All loops are equal: the first
/// one that fails ends the program.
fn run_loop(program: &Arc<Program>, index: usize) -> i32 {
    let code = try_loop(program, index);
    if code != 0 {
        program.shut_down(Cause::Raised);
    }
    code
}

fn try_loop(program: &Arc<Program>, index: usize) -> i32 {
    let config = match yue_io::driver(program.script.io) {
        Ok(driver) => Config {
            driver,
            ..Config::default()
        },
        Err(error) => {
            yue_scheduler::log(yue_scheduler::LogLevel::Error, format_args!("{error}"));
            return 1;
        }
    };
    let l = match Loop::new(config) {
        Ok(l) => l,
        Err(error) => {
            yue_scheduler::log(
                yue_scheduler::LogLevel::Error,
                format_args!("cannot make a loop: {error}"),
            );
            return 1;
        }
    };
    let (id, running) = (l.handle().id(), program.clone());
    let code = l.run(move || main_fiber(&running, index));
    // Not earlier: a cancelled fiber may still block the loop.
    program.dismiss(id);
    Host::end();
    code
}

fn main_fiber(program: &Arc<Program>, index: usize) -> i32 {
    program.enlist(this_loop::handle());
    let host = match Host::start(program.clone(), Role::Main(index)) {
        Ok(host) => host,
        Err(error) => {
            yue_scheduler::log(
                yue_scheduler::LogLevel::Error,
                format_args!("cannot start Lua: {error}"),
            );
            return 1;
        }
    };
    let mut chunks = program.script.chunks.iter();
    let mut next = || {
        let chunk = chunks.next();
        let started = chunk.map(|chunk| start_script(&host, |thread| load(&host, thread, chunk)));
        let failed = |text| ErrorObject::of_kind(ErrorKind::Runtime, text);
        started.transpose().map_err(failed)
    };
    let first = next();
    let result =
        first.and_then(|first| wait_for_end(&host, first.unwrap_or_default(), true, &mut next));
    let code = match result {
        Ok(()) => 0,
        Err(failure) => {
            yue_scheduler::log(
                yue_scheduler::LogLevel::Error,
                format_args!("{}", failure.report()),
            );
            // Now: the other loops need not wait for the end of this one.
            program.shut_down(Cause::Raised);
            1
        }
    };
    close(&host, code == 0 && program.cause() != Some(Cause::Raised));
    code
}

/// Pushes a chunk of the program and its arguments.
fn load(host: &Rc<Host>, thread: &mut LuaState, chunk: &Chunk) -> Result<(), String> {
    let loaded = match chunk {
        Chunk::File(path) => {
            let path = CString::new(path.as_os_str().as_encoded_bytes())
                .map_err(|_| "the script's name has a zero byte in it".to_owned())?;
            thread.load_file(&path)
        }
        Chunk::Text { name, source } => {
            let name = CString::new(name.as_bytes())
                .map_err(|_| "the name of a chunk has a zero byte in it".to_owned())?;
            thread.load(without_first_comment(source), &name)
        }
        // Its name in tracebacks is that of the function.
        Chunk::Interactive => host.push_repl(thread),
    };
    loaded
        .and_then(|()| host.push_arguments(thread))
        .map_err(|error| error.to_string())
}

/// Removes a first line `#!…`; its line end stays, so that lines keep their numbers.
fn without_first_comment(source: &[u8]) -> &[u8] {
    if source.first() != Some(&b'#') {
        return source;
    }
    let end = source.iter().position(|byte| *byte == b'\n');
    &source[end.unwrap_or(source.len())..]
}

/// The outcome of a script: `None` while it runs.
pub(crate) type Outcome = Rc<Cell<Option<Result<(), Ended>>>>;

/// Starts a fiber that runs the chunk that `load` puts on its stack. It holds the program until it ends.
pub(crate) fn start_script(
    host: &Rc<Host>,
    load: impl FnOnce(&mut LuaState) -> Result<(), String>,
) -> Result<Outcome, String> {
    let mut thread = host.vm.borrow_state().map_err(|error| error.to_string())?;
    load(&mut thread)?;
    let outcome: Outcome = Rc::default();
    let (told, hold, waiting) = (outcome.clone(), host.hold(), host.clone());
    let fiber = thread.spawn(Some("main"), move |ended| {
        told.set(Some(if ended.ok { Ok(()) } else { Err(ended) }));
        drop(hold);
        waiting.wake_main();
    });
    drop(fiber.map_err(|error| format!("cannot start a fiber: {error}"))?);
    Ok(outcome)
}

/// Starts the main fiber's next chunk, if there is one.
pub(crate) type Next<'a> = dyn FnMut() -> Result<Option<Outcome>, ErrorObject> + 'a;

/// Waits until the program has ended on this loop. `ends_by_itself`: also returns when nothing holds it any more. When
/// the script has returned, `next` may start another one.
///
/// # Errors
/// The error that the script raised, or that of `next`.
pub(crate) fn wait_for_end(
    host: &Rc<Host>,
    mut script: Outcome,
    ends_by_itself: bool,
    next: &mut Next<'_>,
) -> Result<(), ErrorObject> {
    let watched = host.clone();
    let watcher = spawn(move || {
        if this_loop::wait_for_shutdown().is_ok() {
            watched.dying.set(true);
            watched.wake_main();
        }
    });
    let idle_host = Rc::downgrade(host);
    this_loop::set_idle_hook(move || idle_host.upgrade().is_some_and(|host| host.idle()));
    let result = loop {
        match script.take() {
            Some(Err(mut ended)) => {
                let error = threads::error_of(&mut ended);
                // Interrupted because its time ended: the reason is known.
                let cancelled = error.type_name == ErrorKind::Cancelled.name();
                break match host.program.cause() {
                    Some(_) if cancelled => Ok(()),
                    _ => Err(error),
                };
            }
            Some(Ok(())) if !host.dying.get() => match next() {
                Ok(Some(more)) => script = more,
                Ok(None) => {}
                Err(error) => break Err(error),
            },
            _ => {}
        }
        if host.dying.get() || (ends_by_itself && host.is_idle()) {
            break Ok(());
        }
        host.set_main_waiter(prepare_park());
        if park("the end of the program").is_err() {
            break Ok(());
        }
    };
    watcher.cancel();
    result
}

/// Closes everything that the loop has open: no new requests, time for those that run (`gracefully`), then the loop
/// cancels the rest.
pub(crate) fn close(host: &Rc<Host>, gracefully: bool) {
    host.connections.stop_listening();
    let grace = match host.program.grace_ends() {
        _ if !gracefully => Duration::ZERO,
        Some(at) => at.saturating_duration_since(time::Instant::now()),
        None => GRACE,
    };
    let until = Instant::system().saturating_add(grace);
    // A notification may be the last thing that a program does: it waits for the connection that it opened.
    let waits_to_send = || host.program.cause().is_none() && host.connections.wait_to_send();
    while (host.connections.requests_in_flight() > 0 || waits_to_send())
        && Instant::system() < until
    {
        if sleep(Duration::from_millis(2)).is_err() {
            break;
        }
    }
    let told = crate::lua::host::call_prelude(host, host.at_end.get(), Vec::new());
    if let Err(failure) = told {
        crate::lua::host::log::error(&failure.report());
    }
    host.connections.close_all();
    // The sessions send what is left in the ticks that follow.
    let until = until.max(Instant::system().saturating_add(LAST_WORDS));
    while host.connections.open_count() > 0 && Instant::system() < until {
        let _ = prepare_park();
        let at = yue_scheduler::now().saturating_add(Duration::from_millis(1));
        if park_until("connections to close", Some(at)).is_err() {
            break;
        }
    }
    host.tell_remarks();
    this_loop::clear_idle_hook();
}

native! {
    /// `die(seconds)`: ends the program, on all of its loops, after a delay.
    Die = "die", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(delay) -> () {
        let program = with_host(|host| host.program.clone())?;
        if delay > 0.0 {
            drop(spawn(move || {
                if sleep(seconds(delay)).is_ok() {
                    program.shut_down(Cause::Program);
                }
            }));
        } else {
            program.shut_down(Cause::Program);
        }
        Ok(())
    }
}

native! {
    /// `shutting_down()`: whether the end of the program has begun.
    ShuttingDown = "shutting_down", suspends: false;
    read(_stack) -> () {}
    run(()) -> bool {
        with_host(|host| host.program.cause().is_some())
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; Die, ShuttingDown);
}
