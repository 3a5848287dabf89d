//! Pauses between retries of operations that the kernel refuses with `EAGAIN` without a later readiness event: a Unix
//! connect to a full backlog, and a datagram to a receiver whose queue is full.

use crate::driver::Caller;
use crate::errors::cannot_wait;
use std::io;
use std::time::Duration;
use yue_scheduler::{deadline_after, park_until, prepare_park, yield_now};

/// The second pause; the first pause only yields to other fibers.
const FIRST: Duration = Duration::from_millis(1);

/// The longest pause: a compromise between the peer's latency and a hundred wake-ups a second per waiting fiber.
const LONGEST: Duration = Duration::from_millis(10);

/// The pauses of one operation, each twice as long as the one before.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    next: Duration,
    /// The sum of the pauses so far. Counted only on a thread without a loop, because such a thread has no deadline.
    waited: Duration,
}

impl Backoff {
    /// Pauses. `limit` bounds the total wait of a thread without a loop; a fiber's wait is bounded by its deadline.
    ///
    /// # Errors
    /// When the fiber is cancelled or its deadline passes; `TimedOut` on a thread when the limit has passed;
    /// `WouldBlock` in a callback.
    pub(crate) fn pause(
        &mut self,
        caller: &Caller,
        reason: &'static str,
        limit: Option<Duration>,
    ) -> io::Result<()> {
        let pause = self.next;
        self.next = (2 * pause).clamp(FIRST, LONGEST);
        match caller {
            Caller::Callback => return Err(io::ErrorKind::WouldBlock.into()),
            Caller::Unwinding => return Err(cannot_wait()),
            Caller::Thread => {
                let left = limit.map_or(Duration::MAX, |limit| limit.saturating_sub(self.waited));
                if left.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                std::thread::sleep(pause.min(left));
                self.waited += pause.min(left);
            }
            Caller::Uring(_) | Caller::Mio(_) if pause.is_zero() => yield_now()?,
            Caller::Uring(_) | Caller::Mio(_) => {
                prepare_park();
                park_until(reason, Some(deadline_after(pause)))?;
            }
        }
        Ok(())
    }
}
