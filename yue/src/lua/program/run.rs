//! One loop of a program, from its start to its end: for the program's own loops and for worker threads.
//!
//! ```text
//!   a thread   on_new_loop ── main fiber ── start_host ── start_script ── the script's fiber
//!                                 ├── wait_for_end: nothing holds the program, a shutdown, yue.die, or the script has
//!                                 │                 raised
//!                                 └── close: what runs has time, connections send what is left
//! ```
//!
//! A program ends when its script has returned and nothing that could still call it is open: everything of that kind
//! keeps a [`Hold`](crate::lua::host::Hold). On SIGINT and SIGTERM it ends gracefully; `shutdown.rs` ensures that the
//! end comes.

use crate::lua::host::entries::{self, Entry};
use crate::lua::host::errors::{ErrorObject, error_of, form_of};
use crate::lua::host::modules::{self, call_prelude};
use crate::lua::host::program::{GRACE, Program};
use crate::lua::host::{Host, Role, log};
use crate::lua::rpc::connections::with_connections;
use crate::lua::rpc::dispatch::running_requests;
use crate::lua::simulation::steps;
use crate::lua::{console, development, fibers, files, net, rpc};
use crate::runtime::LoopSettings;
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use yue_luajit::{Ended, LuaState, Vm, VmError, set_error_form, set_exit_hook};
use yue_rpc::ErrorKind;
use yue_rpc::session::wait_for_change;
use yue_scheduler::{CancelScope, Instant, park, prepare_park, spawn, this_loop};

/// The time that connections have to send what they have written, when the program ends. A peer that does not read must
/// not delay the end for long.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Runs `main` as the main fiber of a new loop on the calling thread, which is one of the program's loops until it has
/// ended.
///
/// # Errors
/// If the loop cannot be set up.
pub(crate) fn on_new_loop<R: 'static>(
    program: &Arc<Program>,
    main: impl FnOnce() -> R + 'static,
) -> io::Result<R> {
    let new_loop = LoopSettings::of_driver(program.script.io).new_loop(None)?;
    let (id, member) = (new_loop.handle().id(), program.clone());
    let result = new_loop.run(move || {
        member.add_loop(this_loop::handle());
        main()
    });
    // Not earlier: a cancelled fiber may still block the loop.
    program.remove_loop(id);
    end_host();
    Ok(result)
}

/// Creates the host of the calling thread's loop, and runs the prelude. In a fiber.
pub(crate) fn start_host(program: Arc<Program>, role: Role) -> Result<Rc<Host>, VmError> {
    let host = Host::create(Vm::new()?, program, role);
    set_error_form(form_of);
    set_exit_hook(|| {
        crate::admin::remove_files();
        yue_io::stdio::flush_buffers();
    });
    files::set_print();
    modules::install(&host)?;
    steps::watch(&host.vm);
    Ok(host)
}

/// Drops everything that the rooms keep for the calling thread's loop. Finalizers that run now find no host.
fn end_host() {
    let host = Host::take();
    entries::clear();
    rpc::clear();
    crate::lua::nalloc::clear();
    console::clear();
    fibers::clear();
    files::clear();
    net::clear();
    #[cfg(feature = "http")]
    crate::lua::http::clear();
    drop(host);
}

/// Called when the loop is idle: processes the records of finalizers, and lets the collector continue. Returns whether
/// there is more to do.
fn work_idle(host: &Host) -> bool {
    with_connections(|all| all.tidy());
    let more = host.vm.gc_step_idle();
    if !more {
        log::write_idle();
    }
    more
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
    let (result, hold, waiting) = (outcome.clone(), host.hold(), host.clone());
    let fiber = thread.spawn(Some("main"), move |ended| {
        result.set(Some(if ended.ok { Ok(()) } else { Err(ended) }));
        fibers::end_record_after(&waiting.vm);
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
            watched.die();
        }
    });
    let idle_host = Rc::downgrade(host);
    this_loop::set_idle_hook(move || idle_host.upgrade().is_some_and(|host| work_idle(&host)));
    let result = loop {
        match script.take() {
            Some(Err(ended)) => {
                let error = error_of(&ended);
                // Interrupted because its time ended: the reason is known.
                let cancelled = error.type_name == ErrorKind::Cancelled.name();
                break match host.program.cause() {
                    Some(_) if cancelled => Ok(()),
                    _ => Err(error),
                };
            }
            Some(Ok(())) if !host.is_dying() => match next() {
                Ok(Some(more)) => script = more,
                Ok(None) => {}
                Err(error) => break Err(error),
            },
            _ => {}
        }
        // After the script's outcome: an error of the script is not lost when the program ends at the same time.
        if host.is_dying() || (ends_by_itself && host.is_idle()) {
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
    with_connections(|all| all.stop_listening());
    #[cfg(feature = "http")]
    crate::lua::http::stop_listening();
    if host.program.is_abrupt() {
        with_connections(|all| all.close_all());
        return this_loop::clear_idle_hook();
    }
    let grace = match host.program.grace_ends() {
        _ if !gracefully => Duration::ZERO,
        Some(at) => at.saturating_since(Instant::system()),
        None => GRACE,
    };
    let until = Instant::system().saturating_add(grace);
    let requests_ended = || {
        #[cfg(feature = "http")]
        if crate::lua::http::open_connections() > 0 {
            return false;
        }
        running_requests() == 0 && with_connections(|all| all.requests_in_flight()) == 0
    };
    // A notification may be the last thing that a program does: it waits for the connection that it opened, unless the
    // program is shut down.
    let opening = Rc::new(CancelScope::new());
    let (stopped, program) = (opening.clone(), host.program.clone());
    let watcher = spawn(move || {
        if this_loop::wait_for_shutdown().is_ok() && program.cause().is_some() {
            stopped.cancel();
        }
    });
    opening.enter(|| {
        wait_until("messages to leave", until, || {
            requests_ended() && !with_connections(|all| all.wait_to_send())
        });
    });
    watcher.cancel();
    wait_until("requests to end", until, requests_ended);
    if let Err(failure) = call_prelude(&host.vm, Entry::AtEnd, Vec::new()) {
        log::write_failure("the program's end", &failure);
    }
    with_connections(|all| all.close_all());
    // In the ticks that follow; otherwise the end of the loop would drop it.
    let until = Instant::system().saturating_add(LAST_WORDS);
    wait_until("connections to close", until, || {
        with_connections(|all| all.have_sent())
    });
    log::write_remarks();
    development::failures::log_repeats();
    this_loop::clear_idle_hook();
}

/// Waits until the condition, which only changes of sessions can make true, holds, or the time has passed.
fn wait_until(reason: &'static str, until: Instant, is_true: impl Fn() -> bool) {
    while !is_true() && Instant::system() < until {
        if wait_for_change(reason, Some(until)).is_err() {
            break;
        }
    }
}
