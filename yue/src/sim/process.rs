//! The process of a host: what runs there, from its start to its end.

use super::Cause;
use super::recorder::{MarkKind, Recorder};
use crate::Runtime;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use yue_io::simulation as network;
use yue_scheduler::{lock, simulation};

/// The main function or program of a host.
#[derive(Clone)]
pub(super) enum Main {
    /// A function, in the main fiber of a runtime with that many loops.
    Function(Arc<dyn Fn() + Send + Sync>, usize),
    /// A Lua program, which makes its own loops, and the calls out of the simulation that are let through.
    #[cfg(feature = "lua")]
    Program(Arc<crate::lua::Script>, Arc<[String]>),
}

/// The means to end a process at once.
#[derive(Default)]
enum Switch {
    /// The process has not begun.
    #[default]
    Missing,
    Ready(Box<dyn FnOnce() + Send>),
    /// It was used, perhaps before the process had begun.
    Used,
}

/// A running process.
pub(super) struct Process {
    thread: simulation::Thread<()>,
    switch: Arc<Mutex<Switch>>,
}

impl Process {
    /// Starts the process of a host.
    ///
    /// # Errors
    /// When the system refuses the thread.
    pub(super) fn start(
        number: u32,
        name: &str,
        main: &Main,
        recorder: Arc<Recorder>,
    ) -> io::Result<Process> {
        let switch = Arc::<Mutex<Switch>>::default();
        let run = Run {
            name: name.to_owned(),
            number,
            switch: Arc::clone(&switch),
            recorder,
        };
        let main = main.clone();
        let thread = simulation::spawn_thread(number, name, move || run.run(main))?;
        Ok(Process { thread, switch })
    }

    pub(super) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Lets the process end, as when the machine is switched off.
    pub(super) fn switch_off(&self) {
        let switch = std::mem::replace(&mut *lock(&self.switch), Switch::Used);
        if let Switch::Ready(switch) = switch {
            switch();
        }
    }
}

/// The run of a process, on its first thread.
struct Run {
    name: String,
    number: u32,
    switch: Arc<Mutex<Switch>>,
    recorder: Arc<Recorder>,
}

impl Run {
    fn run(&self, main: Main) {
        match main {
            Main::Function(main, loops) => self.run_function(main, loops),
            #[cfg(feature = "lua")]
            Main::Program(script, allowed) => self.run_program(&script, &allowed),
        }
    }

    fn run_function(&self, main: Arc<dyn Fn() + Send + Sync>, loops: usize) {
        let name = &self.name;
        // Its end is that of a crash, so nothing gets time to say goodbye.
        let built = Runtime::builder()
            .name(name.clone())
            .loops(loops)
            .grace(Duration::ZERO)
            .build();
        let built = match built {
            Ok(built) => built,
            Err(error) => panic!("cannot start the loops of the host {name}: {error}"),
        };
        let whole = built.whole();
        self.set_switch(move || whole.shutdown());
        let run = AssertUnwindSafe(|| built.run(move || main()));
        if let Err(payload) = catch_unwind(run) {
            let text = yue_scheduler::panic_text(&*payload).to_owned();
            self.fail("panicked", |host| Cause::Panicked { host, text });
        }
    }

    #[cfg(feature = "lua")]
    fn run_program(&self, script: &crate::lua::Script, allowed: &[String]) {
        let running = crate::lua::Running::new(script.clone(), allowed);
        let switched = running.clone();
        self.set_switch(move || switched.switch_off());
        match catch_unwind(AssertUnwindSafe(|| running.run())) {
            Ok(Ok(())) => {}
            Ok(Err(text)) => {
                self.fail("raised an error", |host| Cause::Raised { host, text });
            }
            Err(payload) => {
                let text = yue_scheduler::panic_text(&*payload).to_owned();
                self.fail("panicked", |host| Cause::Panicked { host, text });
            }
        }
    }

    fn set_switch(&self, switch: impl FnOnce() + Send + 'static) {
        let mut present = lock(&self.switch);
        if matches!(*present, Switch::Used) {
            drop(present);
            return switch();
        }
        *present = Switch::Ready(Box::new(switch));
    }

    /// Notes the failure of the process and ends the simulation, unless the process was about to end anyway.
    fn fail(&self, how: &str, cause: impl FnOnce(String) -> Cause) {
        if simulation::stopped().is_some() || network::is_down(simulation::host()) {
            return;
        }
        if self.recorder.allows_failure(&self.name) {
            let text = cause(self.name.clone()).to_string();
            return self.recorder.mark(MarkKind::Note, "", &[self.number], text);
        }
        simulation::stop(&format!("the host {} {how}", self.name));
        let cause = |_| cause(self.name.clone());
        self.recorder.fail(cause, self.number);
    }
}
