//! Keepalive: a peer that has been silent for a while is pinged, and given up when it does not answer.
//!
//! The kernel's keepalive shows whether the peer's machine is reachable. It does not notice a process that is stopped
//! or hangs, nor a peer that has died behind a proxy. So two yue peers over TCP also ping each other, by `$yue/ping`:
//!
//! ```text
//!     last bytes        look: none since      ping           nothing came
//!         │◀─── up to 1/5 ───▶│◀──── 1/5 ────▶│◀──── 3/5 ────▶│ the link ends       (of `silence_max`, 50 s)
//! ```
//!
//! Slow is not dead. Any byte is a sign of life. A side that does not read, since its accounts are full, shows that it
//! lives by pings that want no answer. While this side's bytes wait to leave, the peer is not judged: a peer that
//! accepts no bytes is the business of the stall limit, and of TCP. So a peer counts as gone if its process does not
//! reach its loop for more than three fifths of the time.
//!
//! A peer that does not speak yue's extensions is pinged by the transport, if that has pings of its own: WebSocket
//! does, and a browser answers them.
//!
//! It costs nothing while bytes arrive: a timer of each link compares a counter, five times in `silence_max`.

use super::close_reason::CloseReason;
use super::inner::Inner;
use super::options::count;
use super::state::in_flight::Waiter;
use super::state::phase::Phase;
use crate::proto::{Method, encode};

const PING: Method<'_> = Method::Name(b"$yue/ping");

impl Inner {
    /// Starts watching for silence, if the link carries calls in both directions now, the peer understands pings, and
    /// the transport does not itself notice that the peer is gone.
    pub(super) fn start_keepalive(&self) {
        let understands = self.link.peer_is_yue.get() || self.transport_pings();
        if self.phase.get() != Phase::Up || !understands {
            return;
        }
        if let Some(limit) = self.link.with(|link| link.silence_max()).flatten() {
            self.keepalive.limit.set(limit);
            self.keepalive.pinged.set(false);
            self.keepalive.bytes_seen.set(self.signs_of_life());
            self.keepalive.arm(1);
        }
    }

    /// Whether the transport has pings of its own.
    fn transport_pings(&self) -> bool {
        let signs = self.link.with(|link| link.signs_of_life());
        signs.flatten().is_some()
    }

    /// Counts everything that has arrived. Only a change has a meaning.
    fn signs_of_life(&self) -> u64 {
        let signs = self.link.with(|link| link.signs_of_life()).flatten();
        self.counters.bytes_in.get() + signs.unwrap_or(0)
    }

    /// The timer fired.
    pub(super) fn on_silence_timer(&self) {
        if self.phase.get() != Phase::Up {
            return;
        }
        let keepalive = &self.keepalive;
        let bytes = self.signs_of_life();
        if !self.inbox.reading.get() {
            // This side does not read the peer's messages. The peer must learn that this side lives.
            if self.link.peer_is_yue.get() {
                let _ = self.write(|out| encode::notification(out, PING, |_| Ok(0)));
            } else {
                self.link.with(|link| link.ping());
            }
            keepalive.pinged.set(false);
            return keepalive.arm(1);
        }
        if keepalive.bytes_seen.replace(bytes) != bytes {
            keepalive.pinged.set(false);
            return keepalive.arm(1);
        }
        if !keepalive.pinged.replace(true) {
            self.ping();
            return keepalive.arm(3);
        }
        if self.link.with(|link| link.queued_bytes()).unwrap_or(0) != 0 {
            return keepalive.arm(1);
        }
        count(&self.counters.silences);
        let seconds = keepalive.limit.get().as_secs_f64();
        let text = format!("the peer has been silent for {seconds} s, and does not answer a ping");
        self.end_link(CloseReason::Lost(text));
    }

    fn ping(&self) {
        if !self.link.peer_is_yue.get() {
            count(&self.counters.pings);
            self.link.with(|link| link.ping());
            return;
        }
        // Only the arrival of the answer's bytes matters.
        let waiter = Waiter::Callback(Box::new(|_| ()));
        let inserted = self.calls.borrow_mut().insert(waiter, true, usize::MAX);
        let written = inserted
            .and_then(|id| self.write(|out| encode::request(out, id, PING, None, |_| Ok(0))));
        if written.is_ok() {
            count(&self.counters.pings);
        }
    }
}
