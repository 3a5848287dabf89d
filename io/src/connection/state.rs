//! The state of a connection, and what both drivers do with it: delivers bytes, keeps the queue, closes.

use super::sink::Sink;
use crate::driver::Backend;
use crate::driver::members::run_callback;
use crate::net::socket::Socket;
use crate::sys;
use crate::uring::OperationId;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;

/// The maximum number of buffers in one send through the ring.
pub(super) const RING_SLICES: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    Closing,
    Closed,
}

pub(super) struct State {
    pub(super) backend: Backend,
    pub(super) socket: RefCell<Option<Rc<Socket>>>,
    pub(super) sink: RefCell<Option<Rc<dyn Sink>>>,
    pub(super) phase: Cell<Phase>,
    pub(super) outcome: Cell<Option<io::Error>>,
    pub(super) member: Cell<usize>,
    pub(super) deferred: Cell<bool>,
    /// Whether the program wants data.
    pub(super) reading: Cell<bool>,
    /// Whether the peer has finished sending.
    pub(super) input_ended: Cell<bool>,
    pub(super) end_reported: Cell<bool>,
    /// Data received while the program did not want any.
    pub(super) held_back: RefCell<VecDeque<Vec<u8>>>,
    pub(super) queue: RefCell<VecDeque<Vec<u8>>>,
    /// The number of bytes of the queue's first buffer that are sent.
    pub(super) first_sent: Cell<usize>,
    pub(super) queued_bytes: Cell<usize>,
    /// Shut down sending when the queue is empty.
    pub(super) wants_shutdown: Cell<bool>,
    pub(super) did_shutdown: Cell<bool>,
    /// Close when the queue is empty.
    pub(super) wants_close: Cell<bool>,
    pub(super) ring: UringState,
    pub(super) mio: MioState,
}

/// The state of one operation in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum OperationState {
    #[default]
    None,
    Running(OperationId),
    /// A cancel was submitted.
    Ending,
}

/// The operations of a connection on io_uring.
pub(super) struct UringState {
    pub(super) receive: Cell<OperationState>,
    pub(super) send: Cell<OperationState>,
    /// The header of the running send. The kernel reads it during a send, and we write it only between sends.
    pub(super) message: UnsafeCell<libc::msghdr>,
    pub(super) slices: UnsafeCell<[libc::iovec; RING_SLICES]>,
    /// The buffer of a single receive.
    pub(super) single: RefCell<Vec<u8>>,
}

impl Default for UringState {
    fn default() -> Self {
        UringState {
            receive: Cell::default(),
            send: Cell::default(),
            message: UnsafeCell::new(sys::header_of(std::ptr::null_mut(), 0)),
            slices: UnsafeCell::new(
                [libc::iovec {
                    iov_base: std::ptr::null_mut(),
                    iov_len: 0,
                }; RING_SLICES],
            ),
            single: RefCell::default(),
        }
    }
}

impl UringState {
    pub(super) fn is_sending(&self) -> bool {
        self.send.get() != OperationState::None
    }

    pub(super) fn in_flight(&self) -> bool {
        self.receive.get() != OperationState::None || self.send.get() != OperationState::None
    }
}

/// The readiness of the socket as reported so far, on mio.
pub(super) struct MioState {
    pub(super) readable: Cell<bool>,
    pub(super) writable: Cell<bool>,
    /// Whether a short read may leave bytes in the socket: the peer has finished sending, or has sent urgent data.
    pub(super) short_reads_may_lie: Cell<bool>,
    /// Whether the peer has sent urgent data, so that a read may fail with `WouldBlock` although there are bytes.
    pub(super) met_urgent_data: Cell<bool>,
}

impl Default for MioState {
    fn default() -> Self {
        // Readiness is unknown yet: the first calls find out.
        MioState {
            readable: Cell::new(true),
            writable: Cell::new(true),
            short_reads_may_lie: Cell::new(false),
            met_urgent_data: Cell::new(false),
        }
    }
}

impl State {
    pub(super) fn new(backend: Backend, socket: Socket, sink: Rc<dyn Sink>) -> State {
        State {
            backend,
            socket: RefCell::new(Some(Rc::new(socket))),
            sink: RefCell::new(Some(sink)),
            phase: Cell::new(Phase::Open),
            outcome: Cell::new(None),
            member: Cell::new(0),
            deferred: Cell::new(false),
            reading: Cell::new(true),
            input_ended: Cell::new(false),
            end_reported: Cell::new(false),
            held_back: RefCell::default(),
            queue: RefCell::default(),
            first_sent: Cell::new(0),
            queued_bytes: Cell::new(0),
            wants_shutdown: Cell::new(false),
            did_shutdown: Cell::new(false),
            wants_close: Cell::new(false),
            ring: UringState::default(),
            mio: MioState::default(),
        }
    }

    /// Schedules [`State::on_turn`] for the driver's next turn.
    pub(super) fn defer(self: &Rc<Self>) {
        // Once per turn is enough: the turn does all that is due by then.
        if self.phase.get() != Phase::Closed && !self.deferred.replace(true) {
            self.backend.members().defer(self.clone());
        }
    }

    pub(super) fn socket(&self) -> Option<Rc<Socket>> {
        self.socket.borrow().clone()
    }

    /// Makes a callback. If it panics, the connection is closed on either driver, so that the peer is not left waiting.
    pub(super) fn call_sink<R>(
        self: &Rc<Self>,
        callback: impl FnOnce(&dyn Sink) -> R,
    ) -> Option<R> {
        // Cloned, so that the callback runs without a borrow.
        let sink = self.sink.borrow().clone();
        debug_assert_eq!(
            sink.is_none(),
            self.phase.get() == Phase::Closed,
            "a connection has its sink until it has ended"
        );
        let sink = sink?;
        let mut result = None;
        let returned = run_callback(|| result = Some(callback(&*sink)));
        if !returned {
            let text = "the connection was closed because its callback panicked; the message is on standard error";
            self.begin_closing(Some(io::Error::other(text)));
        }
        result
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase.get() == Phase::Open
    }

    /// Begins closing, at the program's request or because of an error.
    pub(super) fn begin_closing(self: &Rc<Self>, error: Option<io::Error>) {
        if self.is_open() {
            debug_assert!(
                self.socket.borrow().is_some(),
                "an open connection has a socket"
            );
            self.phase.set(Phase::Closing);
            let earlier = self.outcome.replace(error);
            debug_assert!(earlier.is_none(), "an open connection has no outcome yet");
            self.defer();
        }
    }

    /// Delivers bytes, or keeps them while the program does not want data.
    pub(super) fn deliver(self: &Rc<Self>, bytes: &[u8]) {
        debug_assert!(
            !bytes.is_empty(),
            "the end of input is reported by other means"
        );
        debug_assert!(!self.end_reported.get(), "data after the end of input");
        if !self.is_open() {
            return;
        }
        // Bytes may arrive after the program paused reading: a receive was running. While earlier bytes are held back,
        // later ones must queue behind them.
        if !self.reading.get() || !self.held_back.borrow().is_empty() {
            self.held_back.borrow_mut().push_back(bytes.to_vec());
            return;
        }
        self.call_sink(|sink| sink.data(bytes));
    }

    /// Delivers the bytes held back. Returns whether there were any.
    pub(super) fn deliver_held_back(self: &Rc<Self>) -> bool {
        let mut any = false;
        while self.is_open() && self.reading.get() {
            let Some(bytes) = self.held_back.borrow_mut().pop_front() else {
                break;
            };
            debug_assert!(!self.end_reported.get(), "data after the end of input");
            any = true;
            self.call_sink(|sink| sink.data(&bytes));
        }
        any
    }

    /// Reports the end of input once all data is delivered. Returns whether it did.
    pub(super) fn report_end_of_input(self: &Rc<Self>) -> bool {
        let due = self.is_open() && self.input_ended.get() && !self.end_reported.get();
        if !due || !self.held_back.borrow().is_empty() {
            return false;
        }
        // Before the callback, which may call back into the connection: the end is reported once.
        self.end_reported.set(true);
        let stay = self.call_sink(|sink| sink.end_of_input()).unwrap_or(false);
        if !stay {
            self.wants_close.set(true);
            self.defer();
        }
        true
    }

    /// Removes `count` sent bytes from the queue, and returns the buffers that are sent completely to the sink.
    pub(super) fn remove_sent(self: &Rc<Self>, mut count: usize) {
        debug_assert!(
            count <= self.queued_bytes.get(),
            "the kernel sent more than was queued"
        );
        self.queued_bytes
            .set(self.queued_bytes.get().saturating_sub(count));
        let mut sent = smallvec::SmallVec::<[Vec<u8>; 8]>::new();
        {
            let mut queue = self.queue.borrow_mut();
            while let Some(first) = queue.front() {
                let left = first.len() - self.first_sent.get();
                if count < left {
                    self.first_sent.set(self.first_sent.get() + count);
                    break;
                }
                count -= left;
                self.first_sent.set(0);
                sent.extend(queue.pop_front());
            }
            debug_assert!(
                !queue.is_empty() || (count == 0 && self.first_sent.get() == 0),
                "an empty queue has no sent bytes"
            );
            debug_assert!(
                self.first_sent.get() < queue.front().map_or(1, Vec::len),
                "a buffer that was sent completely left the queue"
            );
        }
        // Only now, when the queue is consistent and not borrowed: the callback may send.
        for buffer in sent {
            self.call_sink(|sink| sink.sent(buffer));
        }
    }

    /// Does what is due when the queue is empty.
    pub(super) fn handle_empty_queue(self: &Rc<Self>) {
        if !self.is_open() || !self.queue.borrow().is_empty() {
            return;
        }
        debug_assert_eq!(self.queued_bytes.get(), 0, "an empty queue has no bytes");
        debug_assert!(
            !self.ring.is_sending(),
            "a buffer that the kernel reads stays in the queue"
        );
        // When both directions have ended, nothing more can happen to the connection.
        let both_ended = self.wants_shutdown.get() && self.end_reported.get();
        if self.wants_close.get() || both_ended {
            self.begin_closing(None);
        } else if self.wants_shutdown.get()
            && !self.did_shutdown.replace(true)
            && let Some(socket) = self.socket()
        {
            // The next read reports a broken connection.
            let _ = socket.options().shutdown(Shutdown::Write);
        }
    }

    /// Ends the connection if nothing is in flight. Only the turn calls it. Returns whether it did.
    pub(super) fn finish_closing(self: &Rc<Self>) -> bool {
        if self.phase.get() != Phase::Closing || self.ring.in_flight() {
            return false;
        }
        debug_assert!(self.sink.borrow().is_some(), "a connection ends once");
        debug_assert!(
            self.socket.borrow().is_some(),
            "only the end of a connection closes its socket"
        );
        // From here on `defer` does nothing, and no callback but the last one is made.
        self.phase.set(Phase::Closed);
        self.queue.take();
        self.held_back.take();
        self.queued_bytes.set(0);
        self.backend.members().remove(self.member.get());
        // The socket is closed before the callback: `closed` promises that.
        drop(self.socket.take());
        if let Some(sink) = self.sink.take() {
            sink.closed(self.outcome.take().map_or(Ok(()), Err));
        }
        true
    }
}
