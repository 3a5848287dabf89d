//! The program of a simulated host: as a process runs it, without what belongs to the real process: signals, the guard
//! of the shutdown, the flush of the standard streams.

use super::{natives, run_loops};
use crate::lua::host::program::{Cause, Program};
use crate::lua::host::with_host;
use crate::lua::native::{native, register};
use crate::lua::script::{Chunk, Script};
use std::sync::Arc;
use yue_luajit::Stack;
use yue_scheduler::simulation;

/// The program of a host while it runs.
#[derive(Clone)]
pub(crate) struct Running(Arc<Program>);

impl Running {
    /// A program that is about to run.
    pub(crate) fn new(script: Script, allowed: &[String]) -> Running {
        // Nobody types at a simulated host, and its files do not change.
        let mut chunks = script.chunks;
        chunks.retain(|chunk| !matches!(chunk, Chunk::Interactive));
        let script = Script {
            chunks,
            watch: false,
            node: None,
            terminal: None,
            ..script
        };
        Running(Program::new(
            script,
            natives::register_all,
            allowed.to_vec(),
        ))
    }

    /// Runs it to its end on the calling thread, which belongs to the host.
    ///
    /// # Errors
    /// The error that has ended its script, with the traceback; or that it has exited with another code than 0.
    pub(crate) fn run(&self) -> Result<(), String> {
        run_loops(&self.0);
        match (self.0.failure(), self.0.cause()) {
            (Some(failure), _) => Err(failure.report()),
            (None, Some(Cause::Exited(code @ 1..))) => {
                Err(format!("it has ended with exit code {code} (os.exit)"))
            }
            _ => Ok(()),
        }
    }

    /// Ends it at once: its machine is switched off. What it would do about that runs no more.
    pub(crate) fn switch_off(&self) {
        self.0.shut_down(Cause::SwitchedOff);
    }
}

native! {
    /// `simulated_exit(code)`: ends the process of a simulated host at once.
    SimulatedExit = "simulated_exit", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(code) -> () {
        let program = with_host(|host| host.program.clone())?;
        // As the system does: the lowest byte.
        program.shut_down(Cause::Exited(code as i64 as i32 & 0xff));
        Ok(())
    }
}

native! {
    /// `random_seed()`: a number for a generator's seed.
    RandomSeed = "random_seed", suspends: false;
    read(_stack) -> () {}
    run(()) -> f64 { Ok((simulation::random_number() >> 11) as f64) }
}

native! {
    /// `note_unread(text)`: notes a failed fiber whose result nobody has read; returns its number.
    NoteUnread = "note_unread", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(text) -> f64 { Ok(crate::sim::note_unread(String::from_utf8_lossy(text).into_owned()) as f64) }
}

native! {
    /// `forget_unread(number)`: somebody has read it.
    ForgetUnread = "forget_unread", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        crate::sim::forget_unread(number as u64);
        Ok(())
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; SimulatedExit, RandomSeed, NoteUnread, ForgetUnread);
}
