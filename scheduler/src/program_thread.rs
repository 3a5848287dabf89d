//! Threads of the program: the system's, or those of the simulation to which the caller belongs.

use crate::driver::Wait;
use crate::simulation;
use std::fmt;
use std::io;
use std::sync::mpsc::{Receiver, RecvError, TryRecvError};
use std::thread;
use std::time::Duration;

/// A started thread. In a [simulation] it belongs to the host of the thread that started it.
pub struct ProgramThread<T>(Kind<T>);

enum Kind<T> {
    System(thread::JoinHandle<T>),
    Simulated(simulation::Thread<T>),
}

impl<T: Send + 'static> ProgramThread<T> {
    /// Starts a thread.
    ///
    /// # Errors
    /// When the system refuses it.
    pub fn spawn(name: String, body: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        Ok(ProgramThread(match simulation::is_on() {
            true => Kind::Simulated(simulation::spawn_thread(simulation::host(), &name, body)?),
            false => Kind::System(thread::Builder::new().name(name).spawn(body)?),
        }))
    }

    /// Waits for its end, and returns its result, or the payload of its panic.
    pub fn join(self) -> thread::Result<T> {
        match self.0 {
            Kind::System(handle) => handle.join(),
            Kind::Simulated(thread) => thread.join(),
        }
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        match &self.0 {
            Kind::System(handle) => handle.is_finished(),
            Kind::Simulated(thread) => thread.is_finished(),
        }
    }
}

impl<T> fmt::Debug for ProgramThread<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let simulated = matches!(self.0, Kind::Simulated(_));
        f.debug_struct("ProgramThread")
            .field("simulated", &simulated)
            .finish()
    }
}

/// The pause between two looks at a channel in a simulation.
const PAUSE: Duration = Duration::from_micros(10);

/// The longest pause of a wait that takes longer.
const PAUSE_MAX: Duration = Duration::from_millis(10);

/// Blocks the calling thread of a simulation until `done` returns true, or the time has come. Returns what `done` last
/// returned: also false when the simulation has ended.
///
/// # Panics
/// On a thread that belongs to no simulation.
pub fn wait_in_simulation(until: crate::Instant, done: impl Fn() -> bool) -> bool {
    let bell = simulation::Bell::new();
    let mut pause = PAUSE;
    while !done() {
        let now = crate::Instant::system();
        if now >= until {
            return false;
        }
        let at = now.saturating_add(pause).min(until);
        if simulation::turn(&bell, Wait::Block(Some(at))).is_err() {
            return done();
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
    true
}

/// Receives from a channel whose sender is another thread of the program, blocking the calling thread.
///
/// # Errors
/// When all senders are gone; in a simulation also when it has ended.
pub fn receive<T>(receiver: &Receiver<T>) -> Result<T, RecvError> {
    if !simulation::is_on() {
        return receiver.recv();
    }
    let bell = simulation::Bell::new();
    loop {
        match receiver.try_recv() {
            Ok(value) => return Ok(value),
            Err(TryRecvError::Disconnected) => return Err(RecvError),
            Err(TryRecvError::Empty) => {
                let at = crate::Instant::system().saturating_add(PAUSE);
                simulation::turn(&bell, Wait::Block(Some(at))).map_err(|_| RecvError)?;
            }
        }
    }
}
