//! One signalfd on one loop, on either driver.
//!
//! It counts as an operation in flight until it is stopped, so that a loop's end waits for the kernel to let go of it.

use super::{Signal, announce, watch_ended};
use crate::descriptor::Descriptor;
use crate::driver::{Backend, backend};
use crate::readiness::{Readiness, Ready};
use crate::shared::Member;
use crate::sys;
use crate::uring::{Completed, Core, OperationId};
use io_uring::{opcode, types};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

pub(super) struct Watch {
    backend: Backend,
    fd: RefCell<Option<Descriptor>>,
    place: Cell<usize>,
    poll: Cell<Option<OperationId>>,
    stopping: Cell<bool>,
}

impl Watch {
    /// Begins to read those signals on the loop that runs here.
    pub(super) fn start(set: &libc::sigset_t) -> io::Result<Rc<Watch>> {
        let watch = Rc::new(Watch {
            backend: backend()?,
            fd: RefCell::new(Some(Descriptor::from(sys::signal_fd(set)?))),
            place: Cell::new(0),
            poll: Cell::new(None),
            stopping: Cell::new(false),
        });
        match &watch.backend {
            Backend::Uring(core) => watch.poll_ring(core),
            Backend::Mio(core) => {
                if let Some(fd) = &*watch.fd.borrow() {
                    core.own(fd.identity(), watch.clone())?;
                }
            }
        }
        watch.place.set(watch.backend.shared().enter(watch.clone()));
        Ok(watch)
    }

    fn poll_ring(self: &Rc<Self>, core: &Core) {
        if let Some(fd) = &*self.fd.borrow() {
            let entry = opcode::PollAdd::new(types::Fd(fd.raw()), libc::POLLIN as u32).build();
            // SAFETY: the entry points to no memory.
            let id = unsafe { core.start(entry, self.clone(), 0) };
            self.poll.set(Some(id));
        }
    }

    pub(super) fn stop(self: &Rc<Self>) {
        if !self.stopping.replace(true) {
            if let (Backend::Uring(core), Some(id)) = (&self.backend, self.poll.get()) {
                core.cancel(id);
            }
            self.backend.shared().defer(self.clone());
        }
    }

    /// Reads all signals that are there and tells of them.
    fn read(&self) {
        loop {
            let number = match &*self.fd.borrow() {
                Some(fd) if !self.stopping.get() => sys::read_signal(fd.raw()),
                _ => None,
            };
            let Some(number) = number else { return };
            if let Ok(signal) = Signal::from_number(number) {
                announce(signal);
            }
        }
    }
}

impl Member for Watch {
    fn deferred(self: Rc<Self>) -> bool {
        if self.stopping.get() && self.poll.get().is_none() {
            self.backend.shared().leave(self.place.get());
            drop(self.fd.take());
        }
        false
    }

    fn abort(self: Rc<Self>) {
        watch_ended(&self);
        self.stop();
    }
}

impl Completed for Watch {
    fn completed(self: Rc<Self>, _tag: u8, _result: i32, _flags: u32, _last: bool) {
        self.poll.set(None);
        self.read();
        if self.stopping.get() {
            self.backend.shared().defer(self.clone());
        } else if let Backend::Uring(core) = &self.backend {
            self.poll_ring(core);
        }
    }
}

impl Ready for Watch {
    fn ready(self: Rc<Self>, _ready: Readiness) {
        self.read();
    }
}
