//! A socket for datagrams (two for a member of a multicast group), and the fibers that use it.
//!
//! The session's code must not run in these fibers. So they leave what has happened in the [`Port`], and the tick's end
//! delivers it.
//!
//! Invariant: the reader holds at most one batch that was not delivered, so a flood costs one batch a tick.

use super::link::Link;
use crate::transport::spawn_own;
use std::cell::{Cell, RefCell};
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::time::Duration;
use yue_io::net::{Datagram, Datagrams, UdpSocket};
use yue_scheduler::sync::local::Notify;
use yue_scheduler::{FiberId, Stopped, TickEnd, cancel, is_cancelled, sleep, this_loop};

/// The longest datagram, as the kernel counts it.
const RECEIVE_BYTES: usize = 65_535;

/// The size that a socket asks for its receive buffer in the kernel. What arrives while that is full is lost. Linux's
/// default holds about 280 small datagrams.
const KERNEL_BYTES: usize = 1 << 20;

/// An outbox of more bytes is freed after it was sent, so that one burst does not hold its memory forever.
const KEEP_BYTES_MAX: usize = 256 * 1024;

/// After this number of errors in a row the reader pauses before each attempt, so that a socket that always fails does
/// not hold the loop,
const ERRORS_MAX: u32 = 16;

/// for this time.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// The receiver of a port's datagrams. Called outside fibers.
pub(super) trait Owner {
    /// A datagram arrived.
    fn datagram(&self, datagram: Datagram<'_>);

    /// The socket reported an error that belongs to no datagram in particular.
    fn fault(&self, error: io::Error);
}

/// A socket with a reader and a writer; or two, each with a reader.
pub(super) struct Port {
    this: Weak<Port>,
    /// `None` once the port has stopped.
    owner: RefCell<Option<Rc<dyn Owner>>>,
    intakes: Vec<Intake>,
    outbox: RefCell<Outbox>,
    /// Errors to deliver; the link whose datagram was not sent, if it is known.
    faults: RefCell<Vec<(Option<Rc<Link>>, io::Error)>>,
    /// Links that wait to learn that datagrams were sent.
    progress: RefCell<Vec<Rc<Link>>>,
    writer_wakes: Notify,
    /// The writer waits for the tick's end.
    resting: Cell<bool>,
    fibers: RefCell<Vec<FiberId>>,
    scheduled: Cell<bool>,
}

/// The received datagrams of one socket.
struct Intake {
    /// The buffers, while the reader does not use them,
    batch: RefCell<Option<Datagrams>>,
    /// and whether they hold datagrams to deliver.
    arrived: Cell<bool>,
    reader_wakes: Notify,
}

impl Intake {
    fn new(batch: usize) -> Intake {
        Intake {
            // The pages of the buffers are taken by datagrams that are long enough to reach them.
            batch: RefCell::new(Some(Datagrams::new(batch, RECEIVE_BYTES))),
            arrived: Cell::new(false),
            reader_wakes: Notify::new(),
        }
    }
}

/// Datagrams that wait to be sent.
#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    entries: Vec<(Rc<Link>, Range<usize>)>,
}

impl Outbox {
    fn clear(&mut self) {
        self.entries.clear();
        self.bytes.clear();
        if self.bytes.capacity() > KEEP_BYTES_MAX {
            *self = Outbox::default();
        }
    }
}

impl Port {
    /// Starts to use sockets: it receives from all of them, and sends through the first. Up to `batch` datagrams are
    /// received at a time.
    ///
    /// # Errors
    /// If no fiber can be spawned.
    pub(super) fn start(sockets: Vec<UdpSocket>, batch: usize) -> io::Result<Rc<Port>> {
        for socket in &sockets {
            // The kernel gives as much as `net.core.rmem_max` allows.
            socket.set_recv_buffer_size(KERNEL_BYTES)?;
        }
        let port = Rc::new_cyclic(|this| Port {
            this: this.clone(),
            owner: RefCell::default(),
            intakes: sockets.iter().map(|_| Intake::new(batch)).collect(),
            outbox: RefCell::default(),
            faults: RefCell::default(),
            progress: RefCell::default(),
            writer_wakes: Notify::new(),
            resting: Cell::new(false),
            fibers: RefCell::default(),
            scheduled: Cell::new(false),
        });
        if let Err(error) = port.spawn_all(sockets) {
            port.stop();
            return Err(error);
        }
        Ok(port)
    }

    fn spawn_all(self: &Rc<Port>, sockets: Vec<UdpSocket>) -> io::Result<()> {
        for (index, socket) in sockets.into_iter().enumerate() {
            let (reads, writes) = (Rc::new(socket), self.clone());
            if index == 0 {
                let socket = reads.clone();
                self.spawn("rpc datagram writer", move || writes.write_all(&socket))?;
            }
            let this = self.clone();
            let read = move || this.read_all(&this.intakes[index], &reads);
            self.spawn("rpc datagram reader", read)?;
        }
        Ok(())
    }

    fn spawn(&self, name: &str, body: impl FnOnce() + 'static) -> io::Result<()> {
        let fiber = spawn_own(name, body)?;
        self.fibers.borrow_mut().push(fiber);
        Ok(())
    }

    /// Sets the receiver of the datagrams. Call it before the calling fiber parks.
    pub(super) fn set_owner(&self, owner: Rc<dyn Owner>) {
        *self.owner.borrow_mut() = Some(owner);
    }

    /// Stops the fibers. The socket, which only they hold, is closed when they have ended. What was not sent yet is
    /// dropped.
    pub(super) fn stop(&self) {
        self.owner.take();
        self.outbox.borrow_mut().clear();
        for fiber in self.fibers.take() {
            cancel(fiber);
        }
    }

    fn has_stopped(&self) -> bool {
        self.owner.borrow().is_none() || is_cancelled()
    }

    /// Queues a datagram.
    pub(super) fn send(&self, link: Rc<Link>, bytes: &[u8]) {
        let mut outbox = self.outbox.borrow_mut();
        let start = outbox.bytes.len();
        outbox.bytes.extend_from_slice(bytes);
        let end = outbox.bytes.len();
        outbox.entries.push((link, start..end));
        self.writer_wakes.notify_one();
    }

    /// Tells a link at the tick's end what has been sent.
    pub(super) fn tell_progress(&self, link: Rc<Link>) {
        self.progress.borrow_mut().push(link);
        self.schedule();
    }

    /// The body of the reading fiber.
    fn read_all(&self, intake: &Intake, socket: &UdpSocket) {
        let mut errors = 0;
        while !self.has_stopped() {
            if intake.arrived.get() {
                if intake.reader_wakes.notified().is_err() {
                    return;
                }
                continue;
            }
            let Some(mut batch) = intake.batch.take() else {
                return;
            };
            let outcome = socket.recv_batch(&mut batch);
            *intake.batch.borrow_mut() = Some(batch);
            match outcome {
                _ if self.has_stopped() => return,
                Ok(_) => {
                    errors = 0;
                    intake.arrived.set(true);
                }
                Err(error) => {
                    self.faults.borrow_mut().push((None, error));
                    errors += 1;
                    if errors > ERRORS_MAX && sleep(ERROR_PAUSE).is_err() {
                        return;
                    }
                }
            }
            self.schedule();
        }
    }

    /// The body of the writing fiber.
    fn write_all(&self, socket: &UdpSocket) {
        let mut sending = Outbox::default();
        while !self.has_stopped() {
            if self.outbox.borrow().entries.is_empty() {
                if self.writer_wakes.notified().is_err() {
                    return;
                }
                continue;
            }
            mem::swap(&mut *self.outbox.borrow_mut(), &mut sending);
            if self.send_all(socket, &sending).is_err() {
                return;
            }
            sending.clear();
        }
    }

    /// Sends datagrams in order. An error concerns the first of those that remain.
    fn send_all(&self, socket: &UdpSocket, outbox: &Outbox) -> Result<(), Stopped> {
        let mut rest = &outbox.entries[..];
        let mut tries = 0;
        while let [(link, bytes), ..] = rest {
            let batch: Vec<(&[u8], Option<SocketAddr>)> = rest
                .iter()
                .take(BATCH_MAX)
                .map(|(link, bytes)| (&outbox.bytes[bytes.clone()], link.to()))
                .collect();
            match socket.send_batch(&batch) {
                _ if self.has_stopped() => return Err(Stopped::Cancelled),
                Ok(count) => {
                    tries = 0;
                    for (link, bytes) in &rest[..count] {
                        link.on_sent(bytes.len());
                    }
                    rest = &rest[count..];
                }
                Err(error) => {
                    let earlier = error.kind() == io::ErrorKind::ConnectionRefused && tries == 0;
                    self.faults.borrow_mut().push((Some(link.clone()), error));
                    self.schedule();
                    if earlier {
                        // A datagram sent before met a closed port; this one was not sent.
                        tries += 1;
                        continue;
                    }
                    tries = 0;
                    link.on_sent(bytes.len());
                    rest = &rest[1..];
                }
            }
            if !rest.is_empty() {
                self.rest_until_tick_end()?;
            }
        }
        Ok(())
    }

    /// Lets the rest of the loop run. A burst that is sent at once overflows the receiver's buffer in the kernel, above
    /// all if the receiver is on the same loop.
    fn rest_until_tick_end(&self) -> Result<(), Stopped> {
        self.resting.set(true);
        self.schedule();
        while self.resting.get() {
            self.writer_wakes.notified()?;
        }
        Ok(())
    }

    /// Arranges that the tick's end delivers what has happened.
    fn schedule(&self) {
        if let Some(this) = self.this.upgrade()
            && !self.scheduled.replace(true)
        {
            this_loop::at_tick_end(this);
        }
    }

    fn owner(&self) -> Option<Rc<dyn Owner>> {
        self.owner.borrow().clone()
    }
}

/// The most datagrams in one system call.
const BATCH_MAX: usize = 64;

impl TickEnd for Port {
    fn tick_end(&self) {
        self.scheduled.set(false);
        if self.resting.take() {
            self.writer_wakes.notify_one();
        }
        // Each event may stop the port, so the owner is looked up for each.
        for (link, error) in self.faults.take() {
            match (link, self.owner()) {
                (Some(link), _) => link.on_fault(error),
                (None, Some(owner)) => owner.fault(error),
                (None, None) => {}
            }
        }
        for link in self.progress.take() {
            link.on_progress();
        }
        for intake in self.intakes.iter().filter(|intake| intake.arrived.get()) {
            let Some(batch) = intake.batch.take() else {
                continue;
            };
            for datagram in batch.iter() {
                if let Some(owner) = self.owner() {
                    owner.datagram(datagram);
                }
            }
            *intake.batch.borrow_mut() = Some(batch);
            intake.arrived.set(false);
            intake.reader_wakes.notify_one();
        }
    }
}
