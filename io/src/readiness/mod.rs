//! The mio driver (epoll): an operation is a system call that is tried, and tried again when the descriptor is ready.
//!
//! ```text
//!   fiber:  try ──▶ done
//!            └─ WouldBlock: register (once a loop and socket), park ◀── event ── turn: one epoll_wait
//!           try again …
//! ```
//!
//! Invariants:
//! - Registrations are edge-triggered and for both directions. A fiber lines up after its call said WouldBlock and
//!   before the next turn, and a fresh registration reports what is ready already: so no edge is missed.
//! - The kernel holds none of our memory; ending a wait is taking the waiter out of its list.
//! - One thread, but for the bell.

mod sources;

pub(crate) use sources::{Direction, Identity, Readiness, Ready};

use crate::shared::{Shared, guarded};
use crate::sys;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use sources::{SourceId, Sources};
use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use yue_scheduler::{Bell, Instant, LocalWaker, Wait, park, prepare_park};

/// Events that one `epoll_wait` returns.
const EVENTS: usize = 1024;

/// Bytes of the buffer that all connections of a loop read into.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// Operations of fibers between two turns after which each lets the others run first.
const SHARE: u32 = 256;

const BELL: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);

struct MioBell(Waker);

impl Bell for MioBell {
    fn ring(&self) {
        // It fails only if the loop is gone.
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
    /// mio's own wait counts in milliseconds; this one counts in nanoseconds.
    timer: OwnedFd,
    timer_at: Cell<Option<Instant>>,
    /// The last blocking turn returned at once because callbacks had been made; the next one asks the kernel.
    skipped: Cell<bool>,
    pub(crate) shared: Shared,
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
            shared: Shared::default(),
            read_buffer: Cell::new(Vec::new()),
            calls: Cell::new(0),
        }))
    }

    pub(crate) fn bell(&self) -> Arc<dyn Bell> {
        self.bell.clone()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.waiting.get() + self.shared.open()
    }

    /// Ends what is open. Fibers that wait for readiness are told to stop by the scheduler, and need nothing of us.
    pub(crate) fn cancel_all(&self) {
        self.shared.abort_all();
    }

    /// The registration of a socket on this loop.
    fn register(&self, identity: Identity) -> io::Result<SourceId> {
        if let Some(id) = self.sources.borrow().find(identity) {
            return Ok(id);
        }
        let id = self.sources.borrow_mut().insert(identity);
        // Priority is urgent data, at which reads end early.
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        let result = match self
            .registry
            .register(&mut SourceFd(&identity.fd), id.token(), interest)
        {
            // A duplicate of the descriptor kept an old registration of this number alive.
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

    /// Has `owner` told of the readiness of a socket from here on.
    pub(crate) fn own(&self, identity: Identity, owner: Rc<dyn Ready>) -> io::Result<()> {
        let id = self.register(identity)?;
        self.sources.borrow_mut().set_owner(id, owner);
        Ok(())
    }

    /// Forgets a socket, which is about to be closed. The kernel's registration goes with the descriptor.
    pub(crate) fn forget(&self, identity: Identity) {
        self.sources.borrow_mut().remove(identity);
    }

    /// As [`Core::forget`], for a descriptor that stays open.
    pub(crate) fn deregister(&self, identity: Identity) {
        if self.sources.borrow_mut().remove(identity) {
            // A failure means that the registration is gone already.
            let _ = self.registry.deregister(&mut SourceFd(&identity.fd));
        }
    }

    /// Whether a read from the socket would find nothing, so that it can wait without trying.
    pub(crate) fn is_drained(&self, identity: Identity) -> bool {
        self.sources.borrow_mut().is_drained(identity)
    }

    /// Notes that the last call on the socket read all there was: it got less than it asked for.
    pub(crate) fn set_drained(&self, identity: Identity) {
        self.sources.borrow_mut().set_drained(identity);
    }

    /// Whether so many operations were done since the last turn that a fiber must let others run before its next: one
    /// whose calls all succeed at once would never park.
    pub(crate) fn had_its_share(&self) -> bool {
        let calls = self.calls.get().saturating_add(1);
        self.calls.set(calls);
        calls > SHARE
    }

    /// Parks the calling fiber until the descriptor may be ready. The caller has just seen its call say WouldBlock.
    pub(crate) fn wait(
        &self,
        identity: Identity,
        direction: Direction,
        reason: &'static str,
    ) -> io::Result<()> {
        let id = self.register(identity)?;
        let _waiting = self.line_up(self, id, direction, prepare_park());
        park(reason)?;
        Ok(())
    }

    /// Has `waker` wake its fiber when the descriptor may be ready, for as long as the answer lives. The kernel has
    /// just said that it is not, and the fiber parks before the next turn.
    pub(crate) fn watch(
        self: &Rc<Self>,
        identity: Identity,
        direction: Direction,
        waker: LocalWaker,
    ) -> io::Result<Waiting> {
        let id = self.register(identity)?;
        Ok(self.line_up(self.clone(), id, direction, waker))
    }

    fn line_up<C: Deref<Target = Core>>(
        &self,
        core: C,
        id: SourceId,
        direction: Direction,
        waker: LocalWaker,
    ) -> Waiting<C> {
        let ticket = self.sources.borrow_mut().wait(id, direction, waker);
        self.waiting.set(self.waiting.get() + 1);
        Waiting { core, id, ticket }
    }

    /// See [`yue_scheduler::Driver::turn`].
    pub(crate) fn turn(&self, wait: Wait) -> io::Result<()> {
        self.calls.set(0);
        let busy = self.shared.run_deferred();
        if busy && wait != Wait::Poll && !self.skipped.replace(true) {
            // Callbacks may have made fibers runnable: let the loop run them before it asks the kernel.
            return Ok(());
        }
        self.skipped.set(false);
        match wait {
            Wait::Poll if self.sources.borrow().used() == 0 => return Ok(()),
            Wait::Poll => self.poll(Some(Duration::ZERO))?,
            Wait::Block(_) if busy || self.shared.has_deferred() => {
                self.poll(Some(Duration::ZERO))?
            }
            Wait::Block(None) => self.poll(None)?,
            Wait::Block(Some(at)) if at <= Instant::system() => self.poll(Some(Duration::ZERO))?,
            Wait::Block(Some(at)) => {
                self.arm_timer(at)?;
                self.poll(None)?;
            }
        }
        self.dispatch();
        // What the callbacks want sent goes out now, not a tick later.
        self.shared.run_deferred();
        Ok(())
    }

    /// Sees to it that the wait ends at `at`. A timer that is armed for earlier stays: it costs one wake for nothing,
    /// but a deadline that moves away with every operation costs no system call.
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
                events.clear();
                Ok(())
            }
            other => other,
        }
    }

    fn dispatch(&self) {
        // Borrowed over callbacks: nothing but the turn uses the events, and a callback cannot turn the driver.
        let events = self.events.borrow();
        for event in events.iter() {
            match event.token() {
                BELL => {}
                // It is not read: the next arming clears it, and until then no edge comes.
                TIMER => self.timer_at.set(None),
                token => {
                    let ready = Readiness {
                        readable: event.is_readable(),
                        writable: event.is_writable(),
                        hung_up: event.is_read_closed() || event.is_error(),
                        urgent: event.is_priority(),
                    };
                    let owner = self
                        .sources
                        .borrow_mut()
                        .event(SourceId::from_token(token), ready);
                    if let Some(owner) = owner {
                        guarded(|| owner.ready(ready));
                    }
                }
            }
        }
    }

    /// Forgets everybody; the driver goes away.
    pub(crate) fn clear(&self) {
        self.shared.clear();
        let sources = self.sources.take();
        drop(sources);
    }
}

/// A fiber in a list of waiters. It leaves the list on every way out of the park, a panic included.
pub(crate) struct Waiting<C: Deref<Target = Core> = Rc<Core>> {
    core: C,
    id: SourceId,
    ticket: u64,
}

impl<C: Deref<Target = Core>> Drop for Waiting<C> {
    fn drop(&mut self) {
        self.core.sources.borrow_mut().unlink(self.id, self.ticket);
        self.core.waiting.set(self.core.waiting.get() - 1);
    }
}
