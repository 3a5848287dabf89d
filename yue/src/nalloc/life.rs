//! The life of one node, as its owner's link sees it: from the link that a carrier started to the proof that nothing of
//! the node is left.
//!
//! ```text
//!   session ◀─ LifeEvents ◀─ socket            "the link has ended" waits a moment for how the process ended
//!      └─▶ LifeLink ────▶ socket               close: the node has a few seconds, then it is killed
//!   fiber "node end"     waits for the process: kills what is left of its group, ends the link
//!   fiber "node output"  reads what the node prints, to its end
//!   fiber "node lease"   leased carriers: ends the link when the lease has run out
//! ```
//!
//! A killed process's io_uring keeps its sockets open for some milliseconds. So the death of a child is taken from its
//! pidfd, and the link's input is then ended on this side: what the node sent before it died is still read.

use super::allocation::Allocation;
use super::lease;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::Duration;
use yue_io::process::Child;
use yue_rpc::transport::{Ending, Events, Incoming, ProcessEnded, Transport};
use yue_scheduler::sync::local::Notify;
use yue_scheduler::{Builder, FiberId, LogLevel, cancel, set_context, shield, sleep, timeout};

/// The time that a node has to end when its owner has closed it: what the end of a program gives its requests, and the
/// rest of its clean-up.
const CLOSE_TIME: Duration = Duration::from_secs(6);

/// The time in which a process whose link has ended is expected to end, so that its status becomes the link's result.
const STATUS_TIME: Duration = Duration::from_millis(200);

/// The same for a carrier, which may first learn that the node has ended: docker's client waits until the container is
/// removed.
const CARRIER_STATUS_TIME: Duration = Duration::from_secs(3);

/// One node's life.
pub(crate) struct Life {
    allocation: Rc<Allocation>,
    epoch: u64,
    /// `None` once the session knows that the link has ended.
    events: RefCell<Option<Rc<dyn Events>>>,
    /// The link's result, while it waits for the end of the process.
    result: RefCell<Option<io::Result<()>>>,
    /// The end of the process, or of the lease, described.
    end: RefCell<Option<String>>,
    /// The link below.
    link: RefCell<Option<Rc<dyn Transport>>>,
    /// The owner's end of the socket, until the process has ended.
    socket: RefCell<Option<UnixStream>>,
    /// The pipe whose end tells the node that its owner is gone.
    lifeline: RefCell<Option<OwnedFd>>,
    /// The process, until it has been reaped.
    process: Cell<Option<u32>>,
    /// Whether the process is a carrier, and not the node.
    is_carried: Cell<bool>,
    is_closing: Cell<bool>,
    changed: Notify,
    /// The fiber that waits for the process.
    end_fiber: Cell<Option<FiberId>>,
}

/// The parts of a process that a carrier has started.
pub(crate) struct Started {
    pub(crate) child: Child,
    /// This side's end of the socket that is the process's standard input and output.
    pub(crate) socket: UnixStream,
    pub(crate) lifeline: Option<OwnedFd>,
    /// Whether the process is the node.
    pub(crate) is_node: bool,
    pub(crate) epilogue: Rc<Epilogue>,
}

/// The work that follows the end of a carrier's process. In a fiber.
pub(crate) type Epilogue = dyn Fn(ExitStatus) -> Aftermath;

/// The facts that are known once a carrier's process has ended.
#[derive(Default)]
pub(crate) struct Aftermath {
    /// Whether the node has ended, too.
    pub(crate) is_proven: bool,
    /// The cause, behind how the process ended.
    pub(crate) cause: Option<String>,
}

impl Life {
    fn new(allocation: &Rc<Allocation>, events: Rc<dyn Events>) -> Rc<Life> {
        Rc::new(Life {
            epoch: allocation.epoch(),
            allocation: allocation.clone(),
            events: RefCell::new(Some(events)),
            result: RefCell::default(),
            end: RefCell::default(),
            link: RefCell::default(),
            socket: RefCell::default(),
            lifeline: RefCell::default(),
            process: Cell::new(None),
            is_carried: Cell::new(false),
            is_closing: Cell::new(false),
            changed: Notify::new(),
            end_fiber: Cell::new(None),
        })
    }

    /// Watches over a process, and turns its socket into the session's link.
    ///
    /// # Errors
    /// If no fiber can be spawned, or the driver refuses the socket. The process is killed.
    pub(crate) fn of_process(
        allocation: &Rc<Allocation>,
        started: Started,
        events: Rc<dyn Events>,
    ) -> io::Result<Rc<dyn Transport>> {
        let Started {
            mut child,
            socket,
            lifeline,
            is_node,
            epilogue,
        } = started;
        let life = Life::new(allocation, events);
        *life.socket.borrow_mut() = Some(socket.try_clone()?);
        *life.lifeline.borrow_mut() = lifeline;
        life.process.set(Some(child.id()));
        life.is_carried.set(!is_node);
        let waiting = life.clone();
        let end_fiber = spawn_own("node end", move || {
            let status = child.wait_and_kill_group().or_else(|_| {
                let _ = child.kill_group();
                shield(|| child.wait_and_kill_group())
            });
            // The fiber may have been cancelled, which killed the process.
            let after = shield(|| status.as_ref().map(|status| epilogue(*status)).ok());
            waiting.process.set(None);
            waiting.on_process_end(status.map(describe_end), is_node, after.unwrap_or_default());
        })?;
        life.end_fiber.set(Some(end_fiber));
        if !is_node {
            let leased = life.clone();
            spawn_own("node lease", move || leased.watch_lease())?;
        }
        let link = yue_rpc::transport::start_unix(socket.into(), life.as_events())?;
        Ok(life.begin(link))
    }

    /// Watches over a link that a carrier has made without a process of its own. If `is_node`, the end of the link
    /// proves the end of the node; else only the lease does.
    #[cfg(feature = "lua")]
    pub(crate) fn of_link(
        allocation: &Rc<Allocation>,
        events: Rc<dyn Events>,
        is_node: bool,
        start: impl FnOnce(Rc<dyn Events>) -> Result<Rc<dyn Transport>, yue_rpc::Error>,
    ) -> Result<Rc<dyn Transport>, yue_rpc::Error> {
        let life = Life::new(allocation, events);
        let link = start(life.as_events())?;
        if !is_node {
            let leased = life.clone();
            let spawned = spawn_own("node lease", move || leased.watch_lease());
            spawned
                .map_err(|error| yue_rpc::Error::from_connect(&allocation.plan.target, &error))?;
        }
        Ok(life.begin(link))
    }

    fn begin(self: &Rc<Self>, link: Rc<dyn Transport>) -> Rc<dyn Transport> {
        *self.link.borrow_mut() = Some(link.clone());
        Rc::new(LifeLink {
            link,
            life: self.clone(),
        })
    }

    fn as_events(self: &Rc<Self>) -> Rc<dyn Events> {
        Rc::new(LifeEvents(self.clone()))
    }

    fn session(&self) -> Option<Rc<dyn Events>> {
        self.events.borrow().clone()
    }

    /// The process has ended, in the described way.
    fn on_process_end(&self, how: io::Result<String>, is_node: bool, after: Aftermath) {
        drop(self.lifeline.take());
        if after.is_proven && self.allocation.epoch() == self.epoch {
            self.allocation.lease.end();
        }
        let mut how = how.unwrap_or_else(|error| format!("ended: {error}"));
        if let Some(cause) = after.cause {
            how = format!("{how}: {cause}");
        }
        let what = if is_node {
            self.allocation.to_string()
        } else {
            format!("the carrier of {}", self.allocation)
        };
        self.finish(format!("{what} {how}"));
        // Its messages were sent before its end, so they are in the socket: they are read, and then the end.
        if let Some(socket) = self.socket.take() {
            let _ = socket.shutdown(Shutdown::Read);
        }
        // A session that does not read would not learn of it.
        if timeout(STATUS_TIME, || self.wait(|| self.session().is_none())).is_err() {
            self.pass_end();
        }
    }

    fn finish(&self, how: String) {
        if self.end.borrow().is_some() {
            return;
        }
        if self.allocation.epoch() == self.epoch {
            self.allocation.set_end(&*how);
        }
        if !self.is_closing.get() {
            yue_scheduler::log(LogLevel::Debug, format_args!("{how}"));
        }
        *self.end.borrow_mut() = Some(how);
        if self.result.borrow().is_some() {
            self.pass_end();
        }
        self.changed.notify_all();
    }

    /// Ends the link when the lease has run out.
    fn watch_lease(&self) {
        loop {
            if self.end.borrow().is_some() && self.session().is_none() {
                return;
            }
            let left = self
                .allocation
                .lease
                .dead_at(lease::clock())
                .map(|at| at.saturating_sub(lease::clock()));
            match left {
                Some(left) => {
                    if sleep(left).is_err() {
                        return;
                    }
                }
                None if self.allocation.lease.has_run_out(lease::clock()) => {
                    let (node, lease) = (&self.allocation, self.allocation.plan.lease);
                    self.finish(format!(
                        "{node} was not heard for {lease:?}, its lease, and has ended"
                    ));
                    return self.pass_end();
                }
                // It has not begun.
                None => {
                    if sleep(self.allocation.plan.lease / lease::RENEWALS).is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn wait(&self, is_true: impl Fn() -> bool) {
        while !is_true() && self.changed.notified().is_ok() {}
    }

    /// The link below has ended: its reason is how the process ended, if that is known in time.
    fn on_link_end(self: &Rc<Self>, result: io::Result<()>) {
        // An agent has seen the end of its node.
        if let Err(error) = &result
            && let Some(ProcessEnded(how)) = error.get_ref().and_then(|e| e.downcast_ref())
        {
            if self.allocation.epoch() == self.epoch {
                self.allocation.lease.end();
            }
            self.finish(how.clone());
        }
        *self.result.borrow_mut() = Some(result);
        let expects_end = self.process.get().is_some() && !self.is_closing.get();
        if expects_end && self.end.borrow().is_none() {
            let this = self.clone();
            let spawned = spawn_own("node status", move || {
                // An error means that it is not known in time.
                let time = match this.is_carried.get() {
                    true => CARRIER_STATUS_TIME,
                    false => STATUS_TIME,
                };
                let _ = timeout(time, || this.wait(|| this.end.borrow().is_some()));
                this.pass_end();
            });
            if spawned.is_ok() {
                return;
            }
        }
        self.pass_end();
    }

    /// Notifies the session that the link has ended.
    fn pass_end(&self) {
        let Some(events) = self.events.take() else {
            return;
        };
        let result = match &*self.end.borrow() {
            Some(how) => Err(io::Error::other(ProcessEnded(how.clone()))),
            None => self.result.take().unwrap_or(Ok(())),
        };
        if self.allocation.end().is_none() && self.allocation.epoch() == self.epoch {
            let how = match &result {
                Ok(()) => format!("{} has ended", self.allocation),
                Err(error) => format!("{}: {error}", self.allocation),
            };
            self.allocation.set_end(how);
        }
        self.changed.notify_all();
        events.closed(result);
    }

    /// This side ends the link. The process has [`CLOSE_TIME`] to end; then it is killed, with its group.
    fn close(self: &Rc<Self>) {
        if self.is_closing.replace(true) {
            return;
        }
        self.events.take();
        self.changed.notify_all();
        if let Some(link) = self.link.take() {
            link.close();
        }
        drop(self.socket.take());
        if self.process.get().is_none() {
            drop(self.lifeline.take());
            return;
        }
        let this = self.clone();
        let spawned = spawn_own("node closing", move || {
            let ended = timeout(CLOSE_TIME, || this.wait(|| this.process.get().is_none()));
            if ended.is_err() {
                this.kill();
            }
        });
        if spawned.is_err() {
            self.kill();
        }
    }

    /// Kills the process and its group: its fiber does that when it is cancelled.
    fn kill(&self) {
        if self.process.get().is_some()
            && let Some(fiber) = self.end_fiber.get()
        {
            cancel(fiber);
        }
    }
}

/// Spawns a fiber that works for a node, not for the request that happened to allocate it.
pub(super) fn spawn_own(name: &str, body: impl FnOnce() + 'static) -> io::Result<FiberId> {
    let body = move || {
        set_context(None);
        body();
    };
    Ok(Builder::new().name(name).spawn(body)?.id())
}

/// Describes how a process ended, as the end of a sentence about it.
pub fn describe_end(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was killed by {}", signal_name(signal)),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

fn signal_name(signal: i32) -> String {
    match yue_io::signal::Signal::from_number(signal) {
        Ok(known) => format!("signal {signal} ({known})"),
        Err(_) => format!("signal {signal}"),
    }
}

/// The events of the link below, on their way to the session.
struct LifeEvents(Rc<Life>);

impl Events for LifeEvents {
    fn ready(&self) {
        if let Some(events) = self.0.session() {
            events.ready();
        }
    }

    fn data(&self, incoming: Incoming<'_>) {
        if let Some(events) = self.0.session() {
            events.data(incoming);
        }
    }

    fn data_from(&self, sender: SocketAddr, incoming: Incoming<'_>) {
        if let Some(events) = self.0.session() {
            events.data_from(sender, incoming);
        }
    }

    fn sent(&self, buffer: Option<Vec<u8>>) {
        if let Some(events) = self.0.session() {
            events.sent(buffer);
        }
    }

    fn end_of_input(&self) -> bool {
        self.0.session().is_some_and(|events| events.end_of_input())
    }

    fn closed(&self, result: io::Result<()>) {
        self.0.on_link_end(result);
    }
}

/// The sending side of a node's link.
struct LifeLink {
    link: Rc<dyn Transport>,
    life: Rc<Life>,
}

impl Transport for LifeLink {
    fn send(&self, buffer: Vec<u8>) {
        self.link.send(buffer);
    }

    fn queued_bytes(&self) -> usize {
        self.link.queued_bytes()
    }

    fn notify_when_sent(&self) {
        self.link.notify_when_sent();
    }

    fn set_reading(&self, on: bool) {
        self.link.set_reading(on);
    }

    fn shutdown_write(&self) {
        self.link.shutdown_write();
    }

    fn peer_process(&self) -> Option<u32> {
        self.link.peer_process()
    }

    fn silence_max(&self) -> Option<Duration> {
        self.link.silence_max()
    }

    fn explain_end(&self, ending: Ending, text: &str) {
        self.link.explain_end(ending, text);
    }

    fn close(&self) {
        self.life.close();
    }
}

impl Drop for LifeLink {
    fn drop(&mut self) {
        self.life.close();
    }
}
