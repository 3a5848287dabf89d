//! The program of a simulated host: as a process runs it, without what belongs to the real process: signals, the guard
//! of the shutdown, the flush of the standard streams.

use super::{natives, run_loops};
use crate::lua::host::program::{Cause, Program};
use crate::lua::script::{Chunk, Script};
use std::sync::Arc;

/// The program of a host while it runs.
#[derive(Clone)]
pub(crate) struct Running(Arc<Program>);

impl Running {
    /// A program that is about to run.
    pub(crate) fn new(script: Script) -> Running {
        // Nobody types at a simulated host, and its files do not change.
        let mut chunks = script.chunks;
        chunks.retain(|chunk| !matches!(chunk, Chunk::Interactive));
        let script = Script {
            chunks,
            watch: false,
            terminal: None,
            ..script
        };
        Running(Program::new(script, natives::register_all))
    }

    /// Runs it to its end on the calling thread, which belongs to the host.
    ///
    /// # Errors
    /// The error that has ended its script, with the traceback.
    pub(crate) fn run(&self) -> Result<(), String> {
        run_loops(&self.0);
        match self.0.failure() {
            Some(failure) => Err(failure.report()),
            None => Ok(()),
        }
    }

    /// Ends it at once: its machine is switched off. What it would do about that runs no more.
    pub(crate) fn switch_off(&self) {
        self.0.shut_down(Cause::SwitchedOff);
    }
}
