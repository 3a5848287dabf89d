//! A loop with a virtual clock, ticked by hand: an hour of time limits passes in no time, and what waits for nothing is
//! found at once.

use std::cell::Cell;
use std::panic::resume_unwind;
use std::rc::Rc;
use yue_scheduler::{Builder, Clock, Config, Driver, JoinError, Loop, StackClass, Tick, this_loop};

/// A run that takes more ticks than this does not end. The longest that a fuzzer has found takes a few thousand.
const TICKS_MAX: u32 = 500_000;

/// A loop that serves one input after another.
#[derive(Debug)]
pub struct Rig {
    event_loop: Loop,
    time_ns: Rc<Cell<u64>>,
}

impl Rig {
    /// A loop over the driver, for the calling thread.
    ///
    /// # Panics
    /// When the process has made a million loops.
    pub fn new(driver: Box<dyn Driver>) -> Rig {
        let time_ns = Rc::new(Cell::new(1_000_000_000));
        let config = Config {
            driver,
            clock: Clock::Manual(time_ns.clone()),
            ..Config::default()
        };
        let event_loop = Loop::new(config).expect("a loop");
        Rig {
            event_loop,
            time_ns,
        }
    }

    /// Runs `body` in a fiber, and the loop until the fiber ends. Time passes when nothing can run.
    ///
    /// # Panics
    /// With the panic of `body`; if it waits for what never happens, or does not end.
    pub fn run<T: 'static>(&self, body: impl FnOnce() -> T + 'static) -> T {
        let builder = Builder::new().name("main").stack(StackClass::Deep);
        let main = self
            .event_loop
            .enter(|| builder.spawn(body))
            .expect("a fiber");
        let mut ticks = 0;
        while !main.is_done() {
            ticks += 1;
            assert!(
                ticks < TICKS_MAX,
                "this does not end:\n{}",
                self.parked_fibers()
            );
            match self.event_loop.tick().expect("the driver works") {
                Tick::Runnable | Tick::Done => {}
                Tick::IdleUntil(Some(at)) => {
                    let later = self.time_ns.get() + 1;
                    self.time_ns.set(at.as_nanos().max(later));
                }
                Tick::IdleUntil(None) if main.is_done() => {}
                Tick::IdleUntil(None) => {
                    panic!("this waits forever:\n{}", self.parked_fibers())
                }
            }
        }
        match main.join() {
            Ok(result) => result,
            Err(JoinError::Panicked(payload)) => resume_unwind(payload),
            Err(error) => panic!("the main fiber gave no result: {error}"),
        }
    }

    fn parked_fibers(&self) -> String {
        let fibers = self.event_loop.enter(this_loop::fibers);
        fibers.iter().map(|fiber| format!("{fiber:?}\n")).collect()
    }
}
