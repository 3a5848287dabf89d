//! Messages to a peer that does not keep up: a tick's work must not wait for one slow peer.
//!
//! ```text
//!   bytes that wait to be sent
//!   ├──────── PROMPT_BYTES ──────────── output_bytes_high ──────────────────── output_bytes_max ─ ─ ─
//!   │ everything is written │ timed notifications   │ calls and answers wait;     │ asynchronous calls fail,
//!   │                       │ wait aside, `latest`  │ asynchronous calls and      │ notifications are treated
//!   │                       │ keeps its messages    │ notifications are queued    │ as `when_full` says
//! ```
//!
//! A timed notification must not lie behind a megabyte of others when it expires, and bytes handed to the transport
//! cannot be taken back. So it is written only while little output waits, and until then it is kept here, encoded. A
//! program that would rather not encode messages that it may have to replace asks for room and is notified.

use super::call::{Route, Target};
use super::close_reason::CloseReason;
use super::inner::{Inner, Session};
use super::options::{WhenFull, count};
use super::service::Moment;
use super::state::phase::{Phase, Role};
use super::state::queued_calls::QueuedCall;
use crate::error::{Error, ErrorKind};
use crate::proto::encode;
use std::time::Duration;
use yue_scheduler::{Instant, deadline_after, is_past, this_loop};

/// While no more than this number of bytes wait to be sent, a new message leaves soon.
const PROMPT_BYTES: usize = 64 * 1024;

impl Session {
    /// Calls without an answer, and never learns the outcome. It never waits: the notification is held while the link
    /// is not up and granted, and queued while the peer does not read.
    ///
    /// # Errors
    /// `QueueFullError`, retryable, if [`Limits::output_bytes_max`](crate::Limits::output_bytes_max) wait to be sent
    /// already, or [`Limits::held_bytes_max`](crate::Limits::held_bytes_max) are held;
    /// [`Options::when_full`](crate::Options::when_full) sets the further consequences. Otherwise the reason why it
    /// could not be sent.
    ///
    /// # Panics
    /// On another loop than the session's.
    #[inline]
    pub fn notify<'a>(
        &self,
        target: impl Into<Target<'a>>,
        params: impl FnOnce(&mut Vec<u8>) -> Result<u32, Error>,
    ) -> Result<(), Error> {
        let inner = &*self.inner;
        let notified = inner.notify(target.into(), params);
        notified.inspect_err(|error| inner.note_not_taken(error))
    }

    /// Like [`Session::notify`], for messages that are worthless later: the notification is dropped, and counted, if it
    /// cannot be written within that time. Others may overtake it. It never closes a connection.
    ///
    /// # Errors
    /// `QueueFullError`, retryable, if [`Limits::output_bytes_high`](crate::Limits::output_bytes_high) of timed
    /// notifications wait already. Otherwise like [`Session::notify`].
    ///
    /// # Panics
    /// On another loop than the session's.
    ///
    /// ```
    /// use std::time::Duration;
    /// use yue_rpc::session::{Service, Session};
    /// use yue_rpc::typed::Server;
    /// use yue_rpc::{Error, Options, transport};
    ///
    /// yue_io::run(|| -> Result<(), Error> {
    ///     let listener = Server::new().handler("moved", |_: i64| Ok(())).listen("tcp://127.0.0.1:0")?;
    ///     let connector = transport::connector(listener.address());
    ///     let session = Session::open(connector, Service::none(), Options::default());
    ///     session.notify_within(Duration::from_millis(100), "moved", |out| {
    ///         out.push(7);
    ///         Ok(1)
    ///     })?;
    ///     assert!(session.queued_bytes() > 0); // The link is not up yet.
    ///     session.close();
    ///     Ok(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn notify_within<'a>(
        &self,
        time: Duration,
        target: impl Into<Target<'a>>,
        params: impl FnOnce(&mut Vec<u8>) -> Result<u32, Error>,
    ) -> Result<(), Error> {
        self.inner
            .notify_timed(deadline_after(time), target.into(), params)
    }

    /// Bytes that wait to be sent: those that the transport has not sent, and those that wait for a link or for room.
    pub fn queued_bytes(&self) -> usize {
        self.inner.queued_bytes()
    }

    /// Whether a message sent now leaves soon. `None` if it does not and there is no link and none is being made.
    pub fn room(&self) -> Option<bool> {
        let inner = &*self.inner;
        match inner.phase.get() {
            Phase::Idle => None,
            _ if inner.has_no_future() => None,
            _ => Some(inner.has_room()),
        }
    }

    /// Requests one call of [`Hooks::on_room`](crate::Hooks::on_room) for when new messages leave soon again. Connects
    /// if necessary.
    pub fn request_room(&self) {
        let inner = &*self.inner;
        if inner.phase.get() == Phase::Closed || inner.backlog.room_wanted.replace(true) {
            return;
        }
        if inner.phase.get() == Phase::Idle {
            inner.start_connecting();
        }
        inner.offer_room();
    }
}

impl Inner {
    #[inline]
    fn notify(
        &self,
        target: Target<'_>,
        params: impl FnOnce(&mut Vec<u8>) -> Result<u32, Error>,
    ) -> Result<(), Error> {
        let route = self.route_at_once(&target)?;
        let method = self.method_of(target)?;
        match route {
            Route::Write => self.write(|out| encode::notification(out, method, params))?,
            Route::Hold => self.hold((None, Instant::NEVER), method, params)?,
        }
        count(&self.counters.notifications);
        Ok(())
    }

    /// Notifies by that time or not at all.
    pub(super) fn notify_timed(
        &self,
        deadline: Instant,
        target: Target<'_>,
        params: impl FnOnce(&mut Vec<u8>) -> Result<u32, Error>,
    ) -> Result<(), Error> {
        let notified = self.notify_until(deadline, target, params);
        notified.inspect_err(|error| {
            if error.kind() == ErrorKind::QueueFull {
                count(&self.counters.notifications_dropped);
            }
        })
    }

    fn notify_until(
        &self,
        deadline: Instant,
        target: Target<'_>,
        params: impl FnOnce(&mut Vec<u8>) -> Result<u32, Error>,
    ) -> Result<(), Error> {
        let route = match self.phase.get() {
            Phase::Up => Route::Write,
            _ => self.route_otherwise(&target)?,
        };
        let method = self.method_of(target)?;
        match route {
            Route::Write if self.has_room() && self.backlog.timed.borrow().is_empty() => {
                self.write(|out| encode::notification(out, method, params))?;
            }
            Route::Write => {
                let limit = self.options.limits.output_bytes_high;
                let (queue, error) = (&self.backlog.timed, || self.full_error());
                self.enqueue_call(queue, limit, error, (None, deadline), method, params)?;
                self.note_output_waits();
            }
            Route::Hold => self.hold((None, deadline), method, params)?,
        }
        count(&self.counters.notifications);
        Ok(())
    }

    /// The route of a message whose sender does not wait. An error if too much waits already.
    #[inline]
    pub(super) fn route_at_once(&self, target: &Target<'_>) -> Result<Route, Error> {
        let route = match self.phase.get() {
            Phase::Up => Route::Write,
            _ => self.route_otherwise(target)?,
        };
        if route == Route::Write && self.output_is_full() {
            self.admit_above_mark()?;
        }
        Ok(route)
    }

    #[cold]
    fn admit_above_mark(&self) -> Result<(), Error> {
        self.note_output_full();
        if self.output_bytes() <= self.options.limits.output_max() {
            return Ok(());
        }
        Err(self.full_error())
    }

    #[cold]
    fn full_error(&self) -> Error {
        let text = format!(
            "{} bytes wait to be sent to {} already, which does not read them fast enough",
            self.queued_bytes(),
            self.address
        );
        Error::retryable(ErrorKind::QueueFull, text)
    }

    /// Handles a notification that was not queued. If the peer is too slow, that has consequences.
    #[cold]
    pub(super) fn note_not_taken(&self, error: &Error) {
        if error.kind() != ErrorKind::QueueFull {
            return;
        }
        count(&self.counters.notifications_dropped);
        // Loops of one process trust each other: the program that receives the error knows what to do.
        if self.address.starts_with("thread://") {
            return;
        }
        match self.options.when_full {
            WhenFull::Drop => self.notify_full(),
            WhenFull::Close if self.output_bytes() > self.options.limits.output_max() => {
                count(&self.counters.too_slow);
                self.end_for(CloseReason::TooSlow);
            }
            WhenFull::Close => {}
        }
    }

    /// Ends the link, and sends the reason to a yue peer, if it still reads.
    #[cold]
    pub(super) fn end_for(&self, reason: CloseReason) {
        self.send_reason(&reason.to_string());
        self.drain(reason);
    }

    fn notify_full(&self) {
        if !self.backlog.full_notified.replace(true)
            && this_loop::exists()
            && self.service.hooks.wants(Moment::Full)
            && let Some(session) = self.session()
        {
            let _ = self.spawn_hook("rpc on_full", move || {
                session.inner.service.hooks.on_full(&session);
            });
        }
    }

    /// The output has room again, or the held messages are on their way: the next drop is reported again.
    pub(super) fn forget_full(&self) {
        self.backlog.full_notified.set(false);
    }

    /// All bytes that wait to be sent, wherever they wait.
    pub(super) fn queued_bytes(&self) -> usize {
        let aside = self.queued_calls.borrow().bytes() + self.backlog.timed.borrow().bytes();
        self.output_bytes() + self.output.unsent.get() + aside
    }

    /// Whether a message written now leaves soon.
    fn has_room(&self) -> bool {
        let writes = match self.phase.get() {
            Phase::Up => true,
            Phase::Accepting => self.role == Role::Accepted,
            _ => false,
        };
        writes && self.output_bytes() <= PROMPT_BYTES.min(self.options.limits.output_bytes_high)
    }

    /// A message waits for room: the transport must report when it has sent bytes.
    fn note_output_waits(&self) {
        self.link.with(|link| link.notify_when_sent());
    }

    /// Output was sent, or the link came up: offers the room to everything that waits for it, as far as it goes.
    pub(super) fn offer_room(&self) {
        let wanted = self.backlog.room_wanted.get();
        if !wanted && self.backlog.timed.borrow().is_empty() {
            return;
        }
        self.write_timed();
        if !self.has_room() {
            return self.note_output_waits();
        }
        if wanted {
            self.notify_room();
        }
    }

    /// Writes timed notifications while there is room, except expired ones.
    fn write_timed(&self) {
        while self.has_room() {
            let next = self.backlog.timed.borrow_mut().pop();
            let Some(notification) = next else { return };
            if is_past(notification.deadline) {
                self.drop_late(&notification);
            } else {
                // It fails if the notification names functions of a lost link; then it is dropped.
                let _ = self.write_queued_call(&notification);
            }
        }
    }

    /// Drops an expired timed notification.
    pub(super) fn drop_late(&self, notification: &QueuedCall) {
        count(&self.counters.notifications_late);
        self.drop_exports(&notification.exports);
    }

    fn notify_room(&self) {
        if self.backlog.room_wanted.replace(false)
            && self.phase.get() != Phase::Closed
            && this_loop::exists()
            && self.service.hooks.wants(Moment::Room)
            && let Some(session) = self.session()
        {
            let _ = self.spawn_hook("rpc on_room", move || {
                session.inner.service.hooks.on_room(&session);
            });
        }
    }

    /// No link follows, for now or for good: nothing waits for one.
    pub(super) fn drop_backlog(&self) {
        let timed = self.backlog.timed.take();
        for notification in timed.iter() {
            self.drop_late(notification);
        }
        self.forget_full();
        self.notify_room();
    }
}
