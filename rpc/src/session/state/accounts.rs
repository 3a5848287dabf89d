//! The resources that all sessions of a listener use together, checked against the listener's limits.
//!
//! Requests and their bytes are counted from their arrival to the end of their handler, even if the link is lost in
//! between: a client that reconnects does not shed the handlers that it left behind.

use crate::session::options::Limits;
use std::cell::{Cell, RefCell};
use std::rc::Weak;

/// The approximate cost of a handler beside its arguments: the pages of its stack and its Lua state.
pub(crate) const HANDLER_BYTES: usize = 8192;

/// The emergency limit, as a multiple of the memory limit: above it even sessions that hold little must wait.
const EMERGENCY: usize = 4;

/// The number of connections above the limit that are accepted only to be refused with a reason. Further ones are
/// closed silently.
const REFUSED_MAX: usize = 64;

/// Smaller amounts of output are not reported to the accounts each time.
pub(crate) const REPORT_BYTES: usize = 4096;

/// A session that waits for memory of its listener.
pub(crate) trait MemoryWaiter {
    /// There is memory again: the session may be read and may start requests.
    fn resume(&self);
}

/// The accounts of one listener, or of one opened session.
///
/// Counts that change together are not neighbours, hence the order: the compiler would change two neighbours by one
/// load of 16 bytes, and such a load waits until the two stores of 8 bytes before it have reached the cache.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Accounts {
    /// Requests that wait or run.
    handlers: Cell<usize>,
    /// Sessions that wait for memory before they are read or start requests.
    waiting: RefCell<Vec<Weak<dyn MemoryWaiter>>>,
    /// The requests among `handlers` that run.
    running: Cell<usize>,
    connections: Cell<usize>,
    /// Bytes of requests and their decoded arguments, of handlers, of incomplete messages, and of output.
    memory: Cell<usize>,
    /// The part of `memory` that no handler frees: incomplete messages, and output. Peers free it, or time limits do.
    held_by_peers: Cell<usize>,
}

/// The resources that all connections of a listener use at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Links that are up.
    pub connections: usize,
    /// Requests that wait or run, those of lost links included.
    pub requests_in_flight: usize,
    /// Bytes of requests and their decoded arguments, of handlers, of incomplete messages, and of output.
    pub memory_bytes: usize,
    /// Links in the handshake of their transport (TLS, WebSocket), which are not connections yet.
    pub handshakes: usize,
    /// Such handshakes that failed, since the beginning.
    pub handshakes_failed: u64,
    /// Datagrams from strangers that were dropped since the beginning: they held no whole message, or an answer that
    /// nobody asked for, or there was no room for another peer.
    pub datagrams_dropped: u64,
    /// Peers of datagrams that were forgotten to make room for others, since the beginning.
    pub peers_evicted: u64,
}

impl Accounts {
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            connections: self.connections.get(),
            requests_in_flight: self.handlers.get(),
            memory_bytes: self.memory.get(),
            handshakes: 0,
            handshakes_failed: 0,
            datagrams_dropped: 0,
            peers_evicted: 0,
        }
    }

    pub(crate) fn open_connection(&self) {
        self.connections.set(self.connections.get() + 1);
    }

    pub(crate) fn close_connection(&self) {
        self.connections.set(self.connections.get() - 1);
    }

    /// Whether so many connections are open, or about to be, that the next one is closed silently.
    pub(crate) fn are_crowded(&self, unready: usize, limits: &Limits) -> bool {
        self.connections.get() + unready >= limits.connections_max.saturating_add(REFUSED_MAX)
    }

    /// Whether there are more connections than the limit allows, the newest included.
    pub(crate) fn have_too_many_connections(&self, limits: &Limits) -> bool {
        self.connections.get() > limits.connections_max
    }

    /// The number of connections, requests and bytes.
    pub(crate) fn in_use(&self) -> [usize; 3] {
        [&self.connections, &self.handlers, &self.memory].map(Cell::get)
    }

    #[inline]
    pub(crate) fn enter(&self, bytes: usize) {
        self.handlers.set(self.handlers.get() + 1);
        self.memory.set(self.memory.get() + bytes);
    }

    #[inline]
    pub(crate) fn leave(&self, requests: usize, bytes: usize) {
        self.handlers.set(self.handlers.get() - requests);
        self.memory.set(self.memory.get() - bytes);
    }

    /// Counts a request that starts.
    #[inline]
    pub(crate) fn start_handler(&self) {
        self.running.set(self.running.get() + 1);
        self.replace_memory(0, HANDLER_BYTES);
    }

    /// Counts a started request that has ended.
    #[inline]
    pub(crate) fn end_handler(&self) {
        self.running.set(self.running.get() - 1);
        self.replace_memory(HANDLER_BYTES, 0);
    }

    /// Whether no handler runs, so that none could free memory by ending.
    fn is_idle(&self) -> bool {
        self.running.get() == 0
    }

    /// Replaces one part of the memory in use.
    #[inline]
    pub(crate) fn replace_memory(&self, old: usize, new: usize) {
        self.memory.set(self.memory.get() - old + new);
    }

    /// Replaces one part of the memory that peers hold.
    #[inline]
    pub(crate) fn replace_held_by_peers(&self, old: usize, new: usize) {
        self.replace_memory(old, new);
        self.held_by_peers.set(self.held_by_peers.get() - old + new);
    }

    /// Whether peers hold so much that not even one request may start: its answer might be held, too.
    #[cold]
    fn peers_hold_too_much(&self, limits: &Limits) -> bool {
        self.held_by_peers.get() > limits.memory_max.saturating_mul(EMERGENCY)
    }

    /// Whether, now that memory is short, one request may start even so. Without that, nothing might ever free memory
    /// that is held by requests.
    #[cold]
    pub(crate) fn may_start_one(&self, limits: &Limits) -> bool {
        self.is_idle() && !self.peers_hold_too_much(limits)
    }

    /// Whether so many handlers run that their owner matters.
    #[inline]
    pub(crate) fn handlers_are_many(&self, limits: &Limits) -> bool {
        self.handlers.get() >= limits.handlers_max - limits.handlers_max / 4
    }

    /// Whether a connection with `in_flight` requests may start another, now that handlers are many.
    ///
    /// The nearer the limit, the fewer requests a connection may have beside others: its fair share where handlers
    /// begin to be many, one at the limit. So clients that take all they get leave a fifth of the handlers to the
    /// others, even if they took more than their share before handlers were many.
    pub(crate) fn may_start_handler(&self, in_flight: usize, limits: &Limits) -> bool {
        let (max, connections) = (limits.handlers_max, self.connections.get());
        let free = max.saturating_sub(self.handlers.get());
        if free == 0 || connections <= 1 {
            return free > 0;
        }
        let share = (max / connections).saturating_mul(free) / (max / 4).max(1);
        in_flight < share.max(1)
    }

    /// Whether the limit on handlers is reached.
    pub(crate) fn handlers_are_full(&self, limits: &Limits) -> bool {
        self.handlers.get() >= limits.handlers_max
    }

    /// Whether memory is so short that it matters which session holds it.
    #[inline]
    pub(crate) fn memory_is_short(&self, limits: &Limits) -> bool {
        self.memory.get() > limits.memory_max
    }

    /// Whether a session that holds `held` bytes, or would, must not be read or start requests, now that memory is
    /// short: a session above its share, and in an emergency every session.
    pub(crate) fn must_wait(&self, held: usize, limits: &Limits) -> bool {
        held > limits.memory_max / self.connections.get().max(1)
            || self.memory.get() > limits.memory_max.saturating_mul(EMERGENCY)
    }

    /// Whether sessions wait for memory.
    #[inline]
    pub(crate) fn has_waiting_sessions(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    pub(crate) fn wait_for_memory(&self, session: Weak<dyn MemoryWaiter>) {
        self.waiting.borrow_mut().push(session);
    }

    /// The sessions that may continue, if a quarter of the memory is free, or no handler runs that could free some and
    /// one may start.
    #[cold]
    pub(crate) fn take_waiting_sessions(&self, limits: &Limits) -> Vec<Weak<dyn MemoryWaiter>> {
        let free = limits.memory_max - limits.memory_max / 4;
        if self.memory.get() > free && !self.may_start_one(limits) {
            return Vec::new();
        }
        self.waiting.take()
    }
}
