//! `yue -i` at a terminal: a thread that reads lines and has them evaluated, while the loops of the program run.

use crate::lua::host::errors::{error, stopped};
use crate::lua::host::with_host;
use crate::lua::native::{native, register};
use std::fmt;
use std::sync::Arc;
use yue_luajit::Stack;
use yue_rpc::ErrorKind;
use yue_scheduler::spawn_with_signals_blocked;
use yue_scheduler::sync::{RecvError, oneshot};

/// A function that talks with the user of an interactive program: see
/// [`Script::terminal`](crate::lua::Script::terminal).
#[derive(Clone)]
pub struct Terminal(Arc<dyn Fn() + Send + Sync>);

impl Terminal {
    /// `run` is called on a thread of its own, and evaluates by [`evaluator`](super::evaluator). The program ends when
    /// it returns. Meanwhile SIGINT does not end the program.
    pub fn new(run: impl Fn() + Send + Sync + 'static) -> Terminal {
        Terminal(Arc::new(run))
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal").finish_non_exhaustive()
    }
}

native! {
    /// `run_terminal()`: runs the program's terminal to its end. Returns whether the program has one.
    RunTerminal = "run_terminal", suspends: true;
    read(_stack) -> () {}
    run(()) -> bool {
        let program = with_host(|host| host.program.clone())?;
        let Some(terminal) = program.script.terminal.clone() else {
            return Ok(false);
        };
        let (done, ended) = oneshot();
        let thread = spawn_with_signals_blocked("yue console", move || {
            (terminal.0)();
            let _ = done.send(());
        });
        thread.map_err(|failure| {
            error(ErrorKind::Runtime, format!("cannot start the thread of the console: {failure}"))
        })?;
        program.set_terminal_runs(true);
        let outcome = ended.recv();
        program.set_terminal_runs(false);
        match outcome {
            Err(RecvError::Stopped(reason)) => Err(stopped(reason)),
            // Also after a panic there, which has been reported.
            _ => Ok(true),
        }
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; RunTerminal);
}
