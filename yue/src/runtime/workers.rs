//! The threads of a runtime's other loops: starts, ends and joins them.
//!
//! A worker's main fiber waits only for the end of the runtime, which begins when the program's main fiber has ended. A
//! shutdown does not end it: fibers on the worker have the same grace as the main fiber to finish their work.

use super::affinity::Pinned;
use super::report::RuntimeReport;
use super::settings::LoopSettings;
use std::io;
use std::sync::{Arc, Mutex, mpsc};
use yue_scheduler::lock;
use yue_scheduler::{
    Loop, LoopGroup, LoopHandle, ProgramThread, RemoteWaker, StopReport, park, prepare_park,
    receive,
};

/// The other loops of a runtime. Dropping it ends them.
#[derive(Debug, Default)]
pub(super) struct Workers {
    end: Arc<End>,
    threads: Vec<ProgramThread<StopReport>>,
}

impl Workers {
    /// Starts a loop on a new thread.
    ///
    /// # Errors
    /// If the system refuses the thread, or the loop cannot be set up.
    pub(super) fn start(
        &mut self,
        name: String,
        settings: &LoopSettings,
        group: &LoopGroup,
        pin_to: Option<usize>,
    ) -> io::Result<LoopHandle> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let (settings, group, end) = (*settings, group.clone(), self.end.clone());
        let body = move || {
            let made = make(&settings, &group, pin_to);
            let handle = made.as_ref().map(Loop::handle);
            // The receiver waits for it.
            let _ = sender.send(handle.map_err(copy_of));
            match made {
                Ok(one) => one.run_reported(move || end.wait()).1,
                Err(_) => StopReport::default(),
            }
        };
        self.threads.push(ProgramThread::spawn(name, body)?);
        let gone = |_| io::Error::other("the thread of a loop ended while it was set up");
        receive(&receiver).map_err(gone)?
    }

    /// Ends the loops and waits for their threads.
    pub(super) fn end(&mut self) -> RuntimeReport {
        let mut report = RuntimeReport::default();
        self.end.announce();
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(of_loop) => report.add(of_loop),
                // Its panic message has given the reason.
                Err(_) => report.loops_failed += 1,
            }
        }
        report
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end();
    }
}

fn make(settings: &LoopSettings, group: &LoopGroup, pin_to: Option<usize>) -> io::Result<Loop> {
    if let Some(processor) = pin_to {
        // For as long as the thread lives.
        std::mem::forget(Pinned::to(processor)?);
    }
    settings.new_loop(Some(group))
}

fn copy_of(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

/// The end of the runtime, for the fibers that wait for it.
#[derive(Debug, Default)]
struct End {
    state: Mutex<(bool, Vec<RemoteWaker>)>,
}

impl End {
    fn wait(&self) {
        loop {
            let waker = prepare_park().remote();
            let mut state = lock(&self.state);
            if state.0 {
                return;
            }
            state.1.push(waker);
            drop(state);
            if park("the end of the runtime").is_err() {
                return;
            }
        }
    }

    fn announce(&self) {
        let mut state = lock(&self.state);
        state.0 = true;
        state.1.drain(..).for_each(RemoteWaker::wake);
    }
}
