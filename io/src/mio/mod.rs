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

mod sources;

pub(crate) use sources::{DescriptorEvent, EventOwner};

use crate::driver::members::{Members, run_callback};
use crate::identity::{Direction, Identity};
use crate::sys;
use ::mio::unix::SourceFd;
use ::mio::{Events, Interest, Poll, Registry, Token, Waker};
use sources::{SourceId, Sources};
use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use yue_scheduler::{Bell, Instant, LocalWaker, Wait, park, prepare_park};

/// The maximum number of events that one `epoll_wait` returns.
const EVENTS: usize = 1024;

/// Bytes of the buffer that all connections of a loop read into.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// Operations of fibers between two turns, after which each operation yields to other fibers first.
const BUDGET: u32 = 256;

const BELL: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);

struct MioBell(Waker);

impl Bell for MioBell {
    fn ring(&self) {
        // It fails only if the loop has ended.
        let _ = self.0.wake();
    }
}

pub(crate) struct Core {
    poll: RefCell<Poll>,
    registry: Registry,
    events: RefCell<Events>,
    sources: RefCell<Sources>,
    waiting: Cell<usize>,
    bell: Arc<MioBell>,
    /// mio's wait counts in milliseconds; this timer counts in nanoseconds.
    timer: OwnedFd,
    timer_at: Cell<Option<Instant>>,
    /// The last blocking turn returned at once because callbacks were made; the next one must poll the kernel.
    skipped: Cell<bool>,
    pub(crate) members: Members,
    pub(crate) read_buffer: Cell<Vec<u8>>,
    calls: Cell<u32>,
}

impl Core {
    pub(crate) fn new() -> io::Result<Rc<Core>> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = Waker::new(&registry, BELL)?;
        let timer = sys::timer_fd()?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        Ok(Rc::new(Core {
            poll: RefCell::new(poll),
            registry,
            events: RefCell::new(Events::with_capacity(EVENTS)),
            sources: RefCell::new(Sources::default()),
            waiting: Cell::new(0),
            bell: Arc::new(MioBell(waker)),
            timer,
            timer_at: Cell::new(None),
            skipped: Cell::new(false),
            members: Members::default(),
            read_buffer: Cell::new(Vec::new()),
            calls: Cell::new(0),
        }))
    }

    pub(crate) fn bell(&self) -> Arc<dyn Bell> {
        self.bell.clone()
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
        // Both directions at once: one system call per socket, and none when a fiber waits for the other direction.
        // Priority means urgent data, at which reads end early (`tcp(7)`).
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        let result = match self
            .registry
            .register(&mut SourceFd(&identity.fd), id.token(), interest)
        {
            // A duplicate of an earlier descriptor keeps its registration under this number alive.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.registry
                    .reregister(&mut SourceFd(&identity.fd), id.token(), interest)
            }
            other => other,
        };
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
            // A failure means that the registration no longer exists.
            let _ = self.registry.deregister(&mut SourceFd(&identity.fd));
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
        match wait {
            // Without sources only the bell could be pending, and a loop that polls looks into its inbox anyway.
            Wait::Poll if self.sources.borrow().count() == 0 => return Ok(()),
            Wait::Poll => self.poll(Some(Duration::ZERO))?,
            Wait::Block(_) if busy || self.members.has_deferred() => {
                self.poll(Some(Duration::ZERO))?
            }
            Wait::Block(None) => self.poll(None)?,
            Wait::Block(Some(at)) if at <= Instant::system() => self.poll(Some(Duration::ZERO))?,
            Wait::Block(Some(at)) => {
                self.arm_timer(at)?;
                self.poll(None)?;
            }
        }
        self.handle_events();
        // Send what the callbacks queued now, not a tick later.
        self.members.run_deferred();
        Ok(())
    }

    /// Ensures that the wait ends at `at`. A timer that is armed for an earlier time stays. That costs one spurious
    /// wake-up, but a deadline that moves away with every operation costs no system call.
    fn arm_timer(&self, at: Instant) -> io::Result<()> {
        if self.timer_at.get().is_some_and(|armed| armed <= at) {
            return Ok(());
        }
        sys::set_timer_fd(&self.timer, at.as_nanos())?;
        self.timer_at.set(Some(at));
        Ok(())
    }

    fn poll(&self, timeout: Option<Duration>) -> io::Result<()> {
        let mut events = self.events.borrow_mut();
        match self.poll.borrow_mut().poll(&mut events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                // A signal: the loop handles what it has and returns. The events of the last poll must not be handled
                // twice.
                events.clear();
                Ok(())
            }
            other => other,
        }
    }

    fn handle_events(&self) {
        // Borrowed over callbacks: nothing but the turn uses the events, and a callback cannot turn the driver.
        let events = self.events.borrow();
        for event in events.iter() {
            match event.token() {
                BELL => {}
                // The timer is not read: the next arming clears it, and until then it causes no edge.
                TIMER => self.timer_at.set(None),
                token => {
                    let report = DescriptorEvent {
                        readable: event.is_readable(),
                        writable: event.is_writable(),
                        hung_up: event.is_read_closed() || event.is_error(),
                        urgent: event.is_priority(),
                    };
                    let owner = self
                        .sources
                        .borrow_mut()
                        .handle_event(SourceId::from_token(token), report);
                    if let Some(owner) = owner {
                        run_callback(|| owner.on_event(report));
                    }
                }
            }
        }
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
