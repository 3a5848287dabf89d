//! The source of readiness events: the kernel's epoll, or the poller of a simulated network.

use super::sources::DescriptorEvent;
use crate::simulated;
use crate::sys;
use ::mio::unix::SourceFd;
use ::mio::{Events, Interest, Poll, Registry, Token, Waker};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;
use yue_scheduler::{Bell, Instant, Wait};

/// The maximum number of events that one `epoll_wait` returns.
const EVENTS: usize = 1024;

const BELL: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);

struct MioBell(Waker);

impl Bell for MioBell {
    fn ring(&self) {
        // It fails only if the loop has ended.
        let _ = self.0.wake();
    }
}

pub(super) enum Poller {
    Kernel(Kernel),
    Simulated(RefCell<simulated::Poller>),
}

pub(super) struct Kernel {
    poll: RefCell<Poll>,
    registry: Registry,
    events: RefCell<Events>,
    bell: Arc<MioBell>,
    /// mio's wait counts in milliseconds; this timer counts in nanoseconds.
    timer: OwnedFd,
    timer_at: Cell<Option<Instant>>,
}

impl Poller {
    pub(super) fn new() -> io::Result<Poller> {
        Ok(match simulated::is_on() {
            true => Poller::Simulated(RefCell::new(simulated::Poller::new())),
            false => Poller::Kernel(Kernel::new()?),
        })
    }

    pub(super) fn is_simulated(&self) -> bool {
        matches!(self, Poller::Simulated(_))
    }

    pub(super) fn bell(&self) -> Arc<dyn Bell> {
        match self {
            Poller::Kernel(kernel) => kernel.bell.clone(),
            Poller::Simulated(poller) => Arc::new(poller.borrow().bell()),
        }
    }

    /// Registers a descriptor for all its events, edge-triggered.
    pub(super) fn register(&self, fd: RawFd, token: Token) -> io::Result<()> {
        match self {
            Poller::Kernel(kernel) => kernel.register(fd, token),
            Poller::Simulated(poller) => poller.borrow().register(fd, token.0),
        }
    }

    pub(super) fn deregister(&self, fd: RawFd) {
        match self {
            Poller::Kernel(kernel) => {
                // A failure means that the registration no longer exists.
                let _ = kernel.registry.deregister(&mut SourceFd(&fd));
            }
            Poller::Simulated(poller) => poller.borrow().deregister(fd),
        }
    }

    /// Waits for events, as `wait` allows.
    pub(super) fn wait(&self, wait: Wait) -> io::Result<()> {
        match self {
            Poller::Kernel(kernel) => kernel.wait(wait),
            Poller::Simulated(poller) => poller.borrow_mut().wait(wait),
        }
    }

    /// Passes the events of the last wait to `handle`.
    pub(super) fn each_event(&self, mut handle: impl FnMut(Token, DescriptorEvent)) {
        match self {
            Poller::Kernel(kernel) => kernel.each_event(handle),
            Poller::Simulated(poller) => {
                // Taken out: a callback may close a socket, which changes the poller.
                let events = std::mem::take(poller.borrow_mut().events());
                for (token, readiness) in events {
                    let event = DescriptorEvent {
                        readable: readiness.readable,
                        writable: readiness.writable,
                        hung_up: readiness.read_closed || readiness.error,
                        urgent: false,
                    };
                    handle(Token(token), event);
                }
            }
        }
    }
}

impl Kernel {
    fn new() -> io::Result<Kernel> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = Waker::new(&registry, BELL)?;
        let timer = sys::timer_fd()?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        Ok(Kernel {
            poll: RefCell::new(poll),
            registry,
            events: RefCell::new(Events::with_capacity(EVENTS)),
            bell: Arc::new(MioBell(waker)),
            timer,
            timer_at: Cell::new(None),
        })
    }

    fn register(&self, fd: RawFd, token: Token) -> io::Result<()> {
        // Both directions at once: one system call per socket, and none when a fiber waits for the other direction.
        // Priority means urgent data, at which reads end early (`tcp(7)`).
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        match self.registry.register(&mut SourceFd(&fd), token, interest) {
            // A duplicate of an earlier descriptor keeps its registration under this number alive.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.registry
                    .reregister(&mut SourceFd(&fd), token, interest)
            }
            other => other,
        }
    }

    fn wait(&self, wait: Wait) -> io::Result<()> {
        match wait {
            Wait::Poll => self.poll(Some(Duration::ZERO)),
            Wait::Block(None) => self.poll(None),
            Wait::Block(Some(at)) if at <= Instant::system() => self.poll(Some(Duration::ZERO)),
            Wait::Block(Some(at)) => {
                self.arm_timer(at)?;
                self.poll(None)
            }
        }
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

    fn each_event(&self, mut handle: impl FnMut(Token, DescriptorEvent)) {
        // Borrowed over callbacks: nothing but the turn uses the events, and a callback cannot turn the driver.
        let events = self.events.borrow();
        for event in events.iter() {
            match event.token() {
                BELL => {}
                // The timer is not read: the next arming clears it, and until then it causes no edge.
                TIMER => self.timer_at.set(None),
                token => handle(
                    token,
                    DescriptorEvent {
                        readable: event.is_readable(),
                        writable: event.is_writable(),
                        hung_up: event.is_read_closed() || event.is_error(),
                        urgent: event.is_priority(),
                    },
                ),
            }
        }
    }
}
