//! Scenarios: a function, or a Lua program. Either runs on host 0.

use super::{Control, Schedule};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The code that acts on the system.
pub(super) enum Scenario {
    Function(Box<dyn FnOnce(&Control) + Send>),
    #[cfg(feature = "lua")]
    Program(Box<crate::lua::Script>),
}

impl Scenario {
    /// Runs it to its end. If it panics, or raises an error, the run has failed.
    pub(super) fn run(self, control: Control, faults: Schedule) {
        match self {
            Scenario::Function(function) => run_function(function, control, faults),
            #[cfg(feature = "lua")]
            Scenario::Program(script) => run_program(*script, control, faults),
        }
    }
}

fn run_function(function: Box<dyn FnOnce(&Control) + Send>, control: Control, faults: Schedule) {
    let recorder = control.recorder().clone();
    let runtime = match crate::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => panic!("cannot start the scenario's loop: {error}"),
    };
    let main = move || {
        // The hosts of a function exist from the beginning.
        if let Some(problem) =
            (faults.faults().iter()).find_map(|one| control.check(&one.fault).err())
        {
            panic!("{problem}");
        }
        control.play(faults);
        function(&control);
    };
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| runtime.run(main))) {
        let text = yue_scheduler::panic_text(&*payload).to_owned();
        recorder.fail_scenario(text);
        resume_unwind(payload);
    }
}

#[cfg(feature = "lua")]
fn run_program(script: crate::lua::Script, control: Control, faults: Schedule) {
    let recorder = control.recorder().clone();
    control.collect_output();
    control.play(faults);
    let allowed = control.allowed();
    crate::lua::simulation::set_control(control);
    yue_scheduler::simulation::observe(crate::lua::simulation::check_invariants);
    let script = crate::lua::simulation::with_end(script);
    let running = crate::lua::Running::new(script, &allowed);
    match catch_unwind(AssertUnwindSafe(|| running.run())) {
        Ok(Ok(())) => {}
        Ok(Err(text)) => recorder.fail_scenario(text),
        Err(payload) => {
            let text = yue_scheduler::panic_text(&*payload).to_owned();
            recorder.fail_scenario(text);
            resume_unwind(payload);
        }
    }
}
