//! The mio driver (epoll): an operation is a system call that is tried, and retried when the descriptor is ready.
//!
//! ```text
//!   fiber:  try ──▶ done
//!            └─ WouldBlock: register (once per loop and socket), park ◀── event ── turn: one epoll_wait
//!           retry …
//! ```
//!
//! Invariants:
//! - Registrations are edge-triggered and cover both directions. A fiber is enqueued after its call returned
//!   `WouldBlock` and before the next turn, and a new registration reports existing readiness. So no edge is missed.
//! - The kernel holds none of our memory. Ending a wait only removes the waiter from its list.
//! - Everything but the bell runs on one thread.

mod poller;
mod sources;

pub(crate) use sources::{DescriptorEvent, EventOwner};

use crate::driver::members::{Members, run_callback};
use crate::identity::{Direction, Identity};
use poller::Poller;
use sources::{SourceId, Sources};
use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use yue_scheduler::{Bell, LocalWaker, Wait, park, prepare_park};

/// Bytes of the buffer that all connections of a loop read into.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// Operations of fibers between two turns, after which each operation yields to other fibers first.
const BUDGET: u32 = 256;

pub(crate) struct Core {
    poller: Poller,
    sources: RefCell<Sources>,
    waiting: Cell<usize>,
    /// The last blocking turn returned at once because callbacks were made; the next one must poll the kernel.
    skipped: Cell<bool>,
    pub(crate) members: Members,
    pub(crate) read_buffer: Cell<Vec<u8>>,
    calls: Cell<u32>,
}

impl Core {
    pub(crate) fn new() -> io::Result<Rc<Core>> {
        Ok(Rc::new(Core {
            poller: Poller::new()?,
            sources: RefCell::new(Sources::default()),
            waiting: Cell::new(0),
            skipped: Cell::new(false),
            members: Members::default(),
            read_buffer: Cell::new(Vec::new()),
            calls: Cell::new(0),
        }))
    }

    pub(crate) fn bell(&self) -> Arc<dyn Bell> {
        self.poller.bell()
    }

    /// The driver's name: a simulated network has its own.
    pub(crate) fn name(&self) -> &'static str {
        match self.poller.is_simulated() {
            true => "simulated",
            false => "mio",
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.waiting.get() + self.members.count()
    }

    /// Aborts all open members. The scheduler itself stops fibers that wait for readiness.
    pub(crate) fn cancel_all(&self) {
        self.members.shut_down_all();
    }

    /// Returns the socket's registration on this loop, registering it if needed.
    fn register(&self, identity: Identity) -> io::Result<SourceId> {
        if let Some(id) = self.sources.borrow().find(identity) {
            return Ok(id);
        }
        let id = self.sources.borrow_mut().insert(identity);
        let result = self.poller.register(identity.fd, id.token());
        if result.is_err() {
            self.sources.borrow_mut().remove(identity);
        }
        result.map(|()| id)
    }

    /// Reports the readiness of a socket to `owner` from now on.
    pub(crate) fn set_owner(
        &self,
        identity: Identity,
        owner: Rc<dyn EventOwner>,
    ) -> io::Result<()> {
        let id = self.register(identity)?;
        self.sources.borrow_mut().set_owner(id, owner);
        Ok(())
    }

    /// Removes a socket that is about to be closed. The kernel drops its registration with the descriptor.
    pub(crate) fn forget(&self, identity: Identity) {
        self.sources.borrow_mut().remove(identity);
    }

    /// Like [`Core::forget`], for a descriptor that stays open.
    pub(crate) fn deregister(&self, identity: Identity) {
        if self.sources.borrow_mut().remove(identity) {
            self.poller.deregister(identity.fd);
        }
    }

    /// Whether a read from the socket would find nothing, so that the caller can wait without trying.
    pub(crate) fn is_drained(&self, identity: Identity) -> bool {
        self.sources.borrow_mut().is_drained(identity)
    }

    /// Records that the last call on the socket read all bytes: it got fewer than it asked for.
    pub(crate) fn set_drained(&self, identity: Identity) {
        self.sources.borrow_mut().set_drained(identity);
    }

    /// Whether the socket has met urgent data, so that a read may return `WouldBlock` although there are bytes (see
    /// [`sys::has_input`]).
    pub(crate) fn met_urgent_data(&self, identity: Identity) -> bool {
        self.sources.borrow_mut().met_urgent_data(identity)
    }

    /// Whether so many operations ran since the last turn that a fiber must yield before its next. A fiber whose calls
    /// all succeed at once would never park.
    pub(crate) fn over_budget(&self) -> bool {
        let calls = self.calls.get().saturating_add(1);
        self.calls.set(calls);
        calls > BUDGET
    }

    /// Parks the calling fiber until the descriptor may be ready. The caller's call has just returned `WouldBlock`.
    pub(crate) fn park_until_ready(
        &self,
        identity: Identity,
        direction: Direction,
        reason: &'static str,
    ) -> io::Result<()> {
        // A new registration reports existing readiness at the next poll, so nothing is missed between the call that
        // returned `WouldBlock` and this registration (`epoll(7)`).
        let id = self.register(identity)?;
        let _waiting = self.enqueue(self, id, direction, prepare_park());
        park(reason)?;
        Ok(())
    }

    /// Registers `waker` to be woken when the descriptor may be ready, until the result is dropped. The kernel has just
    /// answered "not ready", and the fiber parks before the next turn.
    pub(crate) fn add_waiter(
        self: &Rc<Self>,
        identity: Identity,
        direction: Direction,
        waker: LocalWaker,
    ) -> io::Result<EventWait> {
        let id = self.register(identity)?;
        Ok(self.enqueue(self.clone(), id, direction, waker))
    }

    fn enqueue<C: Deref<Target = Core>>(
        &self,
        core: C,
        id: SourceId,
        direction: Direction,
        waker: LocalWaker,
    ) -> EventWait<C> {
        let ticket = self.sources.borrow_mut().add_waiter(id, direction, waker);
        self.waiting.set(self.waiting.get() + 1);
        EventWait { core, id, ticket }
    }

    /// See [`yue_scheduler::Driver::turn`].
    pub(crate) fn turn(&self, wait: Wait) -> io::Result<()> {
        self.calls.set(0);
        let busy = self.members.run_deferred();
        if busy && wait != Wait::Poll && !self.skipped.replace(true) {
            // Callbacks may have made fibers runnable: let the loop run them before it asks the kernel.
            return Ok(());
        }
        self.skipped.set(false);
        let idle = self.sources.borrow().count() == 0 && !self.poller.is_simulated();
        match wait {
            // Without sources only the bell could be pending, and a loop that polls looks into its inbox anyway.
            Wait::Poll if idle => return Ok(()),
            Wait::Block(_) if busy || self.members.has_deferred() => {
                self.poller.wait(Wait::Poll)?;
            }
            wait => self.poller.wait(wait)?,
        }
        self.handle_events();
        // Send what the callbacks queued now, not a tick later.
        self.members.run_deferred();
        Ok(())
    }

    fn handle_events(&self) {
        self.poller.each_event(|token, report| {
            let id = SourceId::from_token(token);
            let owner = self.sources.borrow_mut().handle_event(id, report);
            if let Some(owner) = owner {
                run_callback(|| owner.on_event(report));
            }
        });
    }

    /// Drops all members and sources when the driver is dropped.
    pub(crate) fn clear(&self) {
        self.members.clear();
        let sources = self.sources.take();
        drop(sources);
    }
}

/// A fiber in a list of waiters. It leaves the list on every exit from the park, a panic included.
pub(crate) struct EventWait<C: Deref<Target = Core> = Rc<Core>> {
    core: C,
    id: SourceId,
    ticket: u64,
}

impl<C: Deref<Target = Core>> Drop for EventWait<C> {
    fn drop(&mut self) {
        self.core
            .sources
            .borrow_mut()
            .remove_waiter(self.id, self.ticket);
        debug_assert!(self.core.waiting.get() > 0);
        self.core.waiting.set(self.core.waiting.get() - 1);
    }
}
