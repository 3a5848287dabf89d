//! Links between two sessions of one loop, for tests and simulations: no system call, and faults on demand.
//!
//! Bytes sent by one end arrive at the other in a later tick, as they would from a socket: never inside `send`. A test
//! can make an end deliver in small pieces, stop delivering, or break.

use super::traits::{Events, Incoming, Transport};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::rc::{Rc, Weak};
use yue_scheduler::{Timer, now};

/// One end of a link in memory.
pub struct MemoryTransport {
    /// Bytes sent by this end and not delivered yet.
    queue: RefCell<VecDeque<Vec<u8>>>,
    queued_bytes: Cell<usize>,
    events: RefCell<Option<Rc<dyn Events>>>,
    /// Removed when both ends are closed. Until then an end that is dropped must still deliver what it sent.
    other: RefCell<Option<Rc<MemoryTransport>>>,
    timer: RefCell<Option<Timer>>,
    /// The number of bytes that arrive at a time; `usize::MAX`: whole buffers.
    piece_bytes: Cell<usize>,
    reading: Cell<bool>,
    ended: Cell<bool>,
    /// The events know that the other end sends no more.
    end_notified: Cell<bool>,
    closed: Cell<bool>,
}

impl MemoryTransport {
    /// Creates two connected ends. An end delivers nothing before its events are [set](MemoryTransport::start).
    ///
    /// # Panics
    /// Outside a loop, when bytes are sent.
    pub fn pair() -> (Rc<MemoryTransport>, Rc<MemoryTransport>) {
        let (a, b) = (Self::end(), Self::end());
        *a.other.borrow_mut() = Some(b.clone());
        *b.other.borrow_mut() = Some(a.clone());
        (a, b)
    }

    fn end() -> Rc<MemoryTransport> {
        Rc::new_cyclic(|this: &Weak<MemoryTransport>| {
            let this = this.clone();
            MemoryTransport {
                queue: RefCell::default(),
                queued_bytes: Cell::new(0),
                events: RefCell::default(),
                other: RefCell::default(),
                timer: RefCell::new(Some(Timer::new(move || {
                    if let Some(end) = this.upgrade() {
                        end.deliver();
                    }
                }))),
                piece_bytes: Cell::new(usize::MAX),
                reading: Cell::new(true),
                ended: Cell::new(false),
                end_notified: Cell::new(false),
                closed: Cell::new(false),
            }
        })
    }

    /// Sets the events that receive what arrives at this end.
    pub fn start(&self, events: Rc<dyn Events>) {
        *self.events.borrow_mut() = Some(events);
        if let Some(other) = self.other() {
            other.schedule();
        }
    }

    /// Delivers the bytes that this end sends in pieces of `bytes`.
    pub fn cut_into_pieces_of(&self, bytes: usize) {
        self.piece_bytes.set(bytes.max(1));
    }

    /// Breaks the link, as a reset would: both ends lose the bytes in flight.
    pub fn reset(&self) {
        let reset = || Err(io::Error::from(io::ErrorKind::ConnectionReset));
        self.queue.borrow_mut().clear();
        if let Some(other) = self.other() {
            other.queue.borrow_mut().clear();
            other.finish(reset());
        }
        self.finish(reset());
    }

    fn other(&self) -> Option<Rc<MemoryTransport>> {
        self.other.borrow().clone()
    }

    fn schedule(&self) {
        if let Some(timer) = &*self.timer.borrow()
            && !timer.is_armed()
        {
            timer.arm(now());
        }
    }

    /// Delivers the bytes of this end to the other end's events, one piece per tick if they are cut.
    fn deliver(&self) {
        let Some(other) = self.other() else { return };
        loop {
            let events = other.events.borrow().clone();
            let Some(events) = events.filter(|_| other.reading.get() && !other.closed.get()) else {
                return;
            };
            let Some(mut buffer) = self.queue.borrow_mut().pop_front() else {
                break;
            };
            let piece = self.piece_bytes.get().min(buffer.len());
            self.queued_bytes.set(self.queued_bytes.get() - piece);
            if piece == buffer.len() {
                events.data(Incoming::Owned(buffer));
                self.notify_sent(None);
            } else {
                events.data(Incoming::Borrowed(&buffer[..piece]));
                buffer.drain(..piece);
                self.queue.borrow_mut().push_front(buffer);
                self.notify_sent(None);
                return self.schedule();
            }
        }
        if self.ended.get() && !other.closed.get() && !other.end_notified.replace(true) {
            // As over a socket: the session may still have to start or to answer what it was sent; then it closes.
            let events = other.events.borrow().clone();
            if !events.is_some_and(|events| events.end_of_input()) {
                other.finish(Ok(()));
            }
        }
    }

    fn notify_sent(&self, buffer: Option<Vec<u8>>) {
        let events = self.events.borrow().clone();
        if let Some(events) = events.filter(|_| !self.closed.get()) {
            events.sent(buffer);
        }
    }

    fn finish(&self, result: io::Result<()>) {
        if self.closed.replace(true) {
            return;
        }
        let events = self.events.take();
        if let Some(other) = self.other() {
            // Bytes that the other end still sends are dropped; it learns of the end when it has read the bytes in
            // flight.
            self.ended.set(true);
            other.queue.borrow_mut().clear();
            if other.closed.get() {
                drop((self.other.take(), other.other.take()));
            } else {
                self.schedule();
            }
        }
        if let Some(events) = events {
            events.closed(result);
        }
    }
}

impl Transport for MemoryTransport {
    fn send(&self, buffer: Vec<u8>) {
        if self.closed.get() || self.ended.get() {
            return;
        }
        self.queued_bytes
            .set(self.queued_bytes.get() + buffer.len());
        self.queue.borrow_mut().push_back(buffer);
        self.schedule();
    }

    fn queued_bytes(&self) -> usize {
        self.queued_bytes.get()
    }

    fn set_reading(&self, on: bool) {
        self.reading.set(on);
        if on && let Some(other) = self.other() {
            other.schedule();
        }
    }

    fn shutdown_write(&self) {
        self.ended.set(true);
        self.schedule();
    }

    fn close(&self) {
        self.finish(Ok(()));
    }
}

impl fmt::Debug for MemoryTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransport")
            .field("queued_bytes", &self.queued_bytes.get())
            .finish_non_exhaustive()
    }
}
