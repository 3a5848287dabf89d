//! What all sessions of a listener have in use together, held against the listener's limits.
//!
//! Requests and their bytes are counted from their arrival to their handler's end, whatever becomes of the link
//! meanwhile: a client that connects anew does not shed the handlers that it left behind.

use super::Inner;
use super::options::Limits;
use std::cell::{Cell, RefCell};
use std::rc::Weak;

/// What a handler costs beside its arguments, about: the pages of its stack, its Lua state.
pub(super) const HANDLER_BYTES: usize = 8192;

/// When so many times the memory that there should be is in use, even those wait that hold little.
const EMERGENCY: usize = 4;

/// Connections above the limit that are accepted only to be told so. More are closed without a word.
const REFUSED_MAX: usize = 64;

/// The accounts of one listener, or of one opened session.
#[derive(Default)]
pub(crate) struct Accounts {
    connections: Cell<usize>,
    /// Requests that wait or run.
    handlers: Cell<usize>,
    /// Those of them that run.
    running: Cell<usize>,
    /// Bytes of requests and of what they have become, of handlers, of messages that are not whole, and of output.
    memory: Cell<usize>,
    /// Sessions that wait for memory: to be read, or to start requests.
    thirsty: RefCell<Vec<Weak<Inner>>>,
}

/// What all connections of a listener use together at a moment.
///
/// ```
/// use yue::rpc::Error;
/// use yue::rpc::typed::{Client, Server};
///
/// yue::Runtime::new()?.run(|| -> Result<(), Error> {
///     let listener = Server::new().handler("ping", |()| Ok(())).listen("tcp://127.0.0.1:0")?;
///     let client = Client::open(&listener.address().to_string())?;
///     client.call::<_, ()>("ping", ())?;
///     assert_eq!(listener.usage().connections, 1);
///     Ok(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Links that are up.
    pub connections: usize,
    /// Requests that wait or run, those of lost links included.
    pub requests_in_flight: usize,
    /// Bytes of requests and of what they have become, of handlers, of messages that are not whole, and of output.
    pub memory_bytes: usize,
}

impl Accounts {
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            connections: self.connections.get(),
            requests_in_flight: self.handlers.get(),
            memory_bytes: self.memory.get(),
        }
    }

    pub(super) fn open_connection(&self) {
        self.connections.set(self.connections.get() + 1);
    }

    pub(super) fn close_connection(&self) {
        self.connections.set(self.connections.get() - 1);
    }

    /// Whether so many connections are open that another is closed without a word.
    pub(crate) fn are_crowded(&self, limits: &Limits) -> bool {
        self.connections.get() >= limits.connections_max.saturating_add(REFUSED_MAX)
    }

    /// Whether there are more connections than may be, the newest included.
    pub(super) fn have_too_many_connections(&self, limits: &Limits) -> bool {
        self.connections.get() > limits.connections_max
    }

    /// Connections, requests and bytes.
    pub(crate) fn in_use(&self) -> [usize; 3] {
        [&self.connections, &self.handlers, &self.memory].map(Cell::get)
    }

    #[inline]
    pub(super) fn enter(&self, bytes: usize) {
        self.handlers.set(self.handlers.get() + 1);
        self.memory.set(self.memory.get() + bytes);
    }

    #[inline]
    pub(super) fn leave(&self, requests: usize, bytes: usize) {
        self.handlers.set(self.handlers.get() - requests);
        self.memory.set(self.memory.get() - bytes);
    }

    /// A request starts.
    #[inline]
    pub(super) fn start_handler(&self) {
        self.running.set(self.running.get() + 1);
        self.replace_memory(0, HANDLER_BYTES);
    }

    /// A request that had started is over.
    #[inline]
    pub(super) fn end_handler(&self) {
        self.running.set(self.running.get() - 1);
        self.replace_memory(HANDLER_BYTES, 0);
    }

    /// Whether no handler runs that could free memory by its end.
    pub(super) fn is_idle(&self) -> bool {
        self.running.get() == 0
    }

    /// Replaces a part of the memory in use.
    #[inline]
    pub(super) fn replace_memory(&self, old: usize, new: usize) {
        self.memory.set(self.memory.get() - old + new);
    }

    /// Whether so many handlers run that it matters whose they are.
    #[inline]
    pub(super) fn handlers_are_many(&self, limits: &Limits) -> bool {
        self.handlers.get() >= limits.handlers_max - limits.handlers_max / 4
    }

    /// Whether a connection with so many requests may have another, now that handlers are many: near the limit those
    /// above their fair share are refused first, so that one client cannot use up the listener.
    pub(super) fn may_start_handler(&self, in_flight: usize, limits: &Limits) -> bool {
        let fair = limits.handlers_max / self.connections.get().max(1);
        self.handlers.get() < limits.handlers_max && in_flight < fair.max(1)
    }

    /// Whether memory is so short that it matters who holds it.
    #[inline]
    pub(super) fn memory_is_short(&self, limits: &Limits) -> bool {
        self.memory.get() > limits.memory_max
    }

    /// Whether a session that holds so much, or would, must not be read, nor start requests, now that memory is short:
    /// one that holds more than its share, and in the end everybody.
    pub(super) fn must_wait(&self, held: usize, limits: &Limits) -> bool {
        held > limits.memory_max / self.connections.get().max(1)
            || self.memory.get() > limits.memory_max.saturating_mul(EMERGENCY)
    }

    /// Whether sessions wait to be read.
    #[inline]
    pub(super) fn has_thirsty(&self) -> bool {
        !self.thirsty.borrow().is_empty()
    }

    pub(super) fn wait_for_memory(&self, session: Weak<Inner>) {
        self.thirsty.borrow_mut().push(session);
    }

    /// Sessions that may go on, if a quarter of the memory is free, or nothing runs that could free some.
    #[cold]
    pub(super) fn take_thirsty(&self, limits: &Limits) -> Vec<Weak<Inner>> {
        if self.memory.get() > limits.memory_max - limits.memory_max / 4 && !self.is_idle() {
            return Vec::new();
        }
        self.thirsty.take()
    }
}
