//! Accepts connections at the pace at which they are served.
//!
//! Each accepted connection causes work later: its requests, and its end. A loop that accepted without limit would fall
//! ever further behind clients that connect, call and disconnect, until their remains fill the listener's
//! `connections_max` and honest clients are refused. So a tick accepts a limited number, and fewer while requests wait
//! that arrived earlier. The other connections stay in the kernel's backlog, where they wait or, once it is full, fail.

use crate::session::worker;
use std::io;
use std::rc::Rc;
use yue_scheduler::{
    LocalWaker, StackClass, Stopped, TickEnd, park, prepare_park, this_loop, yield_now,
};

/// Connections accepted in one tick. To accept one costs some 5 µs, so a tick is about 0.2 ms longer.
const ACCEPTS_PER_TICK: u32 = 32;

/// Connections accepted in one tick while the workers are behind. They run for 0.2 ms in a tick, in which they serve
/// more connections than this even if a request takes 20 µs.
const ACCEPTS_PER_TICK_BEHIND: u32 = 4;

/// Passes connections to `accept` until the fiber is cancelled. `class` is that of the workers that serve them.
pub(super) fn accept_all<S>(
    incoming: impl Iterator<Item = io::Result<S>>,
    class: StackClass,
    accept: impl Fn(S),
) {
    let mut accepted = 0;
    for stream in incoming {
        match stream {
            Ok(stream) => {
                accept(stream);
                accepted += 1;
                let most = match worker::are_behind(class) {
                    true => ACCEPTS_PER_TICK_BEHIND,
                    false => ACCEPTS_PER_TICK,
                };
                if accepted >= most {
                    accepted = 0;
                    // If it is cancelled, `incoming` returns what was accepted before, and then an error.
                    let _ = wait_for_tick_end();
                }
            }
            // `incoming` itself waits for passing errors to clear, such as a lack of descriptors. After any other error
            // the next accept may succeed. Only cancellation is final.
            Err(_) if yield_now().is_err() => break,
            Err(_) => {}
        }
    }
}

/// Parks the fiber until the loop has done everything else that it does in this tick.
fn wait_for_tick_end() -> Result<(), Stopped> {
    struct Wake(LocalWaker);

    impl TickEnd for Wake {
        fn tick_end(&self) {
            self.0.wake();
        }
    }

    this_loop::at_tick_end(Rc::new(Wake(prepare_park())));
    park("the end of the tick")
}
