//! Reloads of modules on all loops of a program: the natives under `yue.reload`.
//!
//! ```text
//!   loop 1: yue.reload()        the other loops and threads
//!   load the new versions   ──▶ load theirs, each in a fiber of its own
//!   all have loaded         ──▶ exchange the versions          one has failed  ──▶ forget what was loaded
//! ```
//!
//! The prelude does the work (`internal.reload_step`, ../../../lua/reload.lua): each loop has its own VM and modules.

use crate::lua::fibers::{note_records, number};
use crate::lua::host;
use crate::lua::host::entries::Entry;
use crate::lua::host::errors::{ErrorObject, error, stopped};
use crate::lua::host::modules::call_prelude;
use crate::lua::host::with_host;
use crate::lua::native::{Results, native, register};
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use yue_luajit::{Error, Parked, Stack, ffi};
use yue_rpc::ErrorKind;
use yue_scheduler::simulation::PerHost;
use yue_scheduler::{
    JoinError, Stopped, deadline_after, drop_payload, is_past, this_loop, with_deadline,
};

/// The time that the other loops have for a step: they load files, which may wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether a loop of the process reloads: two at once would wait for each other.
static RELOADING: PerHost<AtomicBool> = PerHost::new(AtomicBool::default);

native! {
    /// `reload_begin()`: whether the caller may reload now; it calls `reload_end` afterwards.
    ReloadBegin = "reload_begin", suspends: false;
    read(_stack) -> () {}
    run(()) -> bool { Ok(!RELOADING.get().swap(true, Ordering::Acquire)) }
}

native! {
    ReloadEnd = "reload_end", suspends: false;
    read(_stack) -> () {}
    run(()) -> () {
        RELOADING.get().store(false, Ordering::Release);
        Ok(())
    }
}

native! {
    /// `reload_others(step)`: runs a step of a reload, which is encoded as msgpack, on the program's other loops, and
    /// returns their number. Raises the error of the first that fails.
    ReloadOthers = "reload_others", suspends: true;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(step) -> f64 {
        let program = with_host(|host| host.program.clone())?;
        let own = this_loop::id();
        let others: Vec<_> = program
            .members()
            .into_iter()
            .filter(|(handle, _)| handle.id() != own)
            .map(|(handle, _)| {
                let step = step.to_vec();
                handle.spawn(move || run_step(step))
            })
            .collect();
        let count = others.len();
        let until = deadline_after(PATIENCE);
        let mut outcome: Result<(), Error> = Ok(());
        for other in others {
            // The steps of all loops end before this returns, so that the next step finds them ready.
            let joined = with_deadline(until, || other.join());
            let failed = match joined {
                Ok(Ok(())) => None,
                Ok(Err(failure)) => Some(Error::value(failure)),
                Err(JoinError::Stopped(Stopped::Deadline)) if is_past(until) => {
                    let text = format!("nothing was reloaded: a loop did not answer within {PATIENCE:?}");
                    Some(error(ErrorKind::Timeout, text))
                }
                Err(JoinError::Stopped(reason)) => Some(stopped(reason)),
                Err(JoinError::Panicked(payload)) => {
                    drop_payload(payload);
                    Some(error(ErrorKind::Runtime, "nothing was reloaded: a loop failed"))
                }
                // The loop has ended, and needs no new version.
                Err(_) => None,
            };
            if let (Some(failure), Ok(())) = (failed, &outcome) {
                outcome = Err(failure);
            }
        }
        outcome.map(|()| count as f64)
    }
}

/// Runs a step on the calling thread's loop, in a fiber.
fn run_step(step: Vec<u8>) -> Result<(), ErrorObject> {
    match host::current() {
        // It has not begun to load anything, or has ended.
        None => Ok(()),
        Some(_) if Entry::ReloadStep.reference().is_none() => Ok(()),
        Some(host) => call_prelude(&host.vm, Entry::ReloadStep, step),
    }
}

/// Numbers of fibers, as a Lua list.
pub(crate) struct Numbers(Vec<f64>);

impl Results for Numbers {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        // SAFETY: `Stack` promises a valid state where errors may be raised.
        unsafe {
            ffi::lua_createtable(stack.raw(), self.0.len() as c_int, 0);
            for (index, number) in self.0.iter().enumerate() {
                stack.push_number(*number);
                ffi::lua_rawseti(stack.raw(), -2, index as i64 + 1);
            }
        }
        1
    }
}

native! {
    /// `working_fibers()`: the numbers of the loop's other fibers that are in a piece of Lua work, whose end the
    /// prelude is told of.
    WorkingFibers = "working_fibers", suspends: false;
    read(_stack) -> () {}
    run(()) -> Numbers {
        let mut fibers = this_loop::fiber_ids();
        fibers.retain(|fiber| Parked::find(*fiber, |_| ()).is_some());
        note_records(&fibers);
        Ok(Numbers(fibers.into_iter().map(number).collect()))
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; ReloadBegin, ReloadEnd, ReloadOthers, WorkingFibers);
}
