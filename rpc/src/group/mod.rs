//! Groups: sets of sessions that are notified and called together, on all loops of the process.
//!
//! ```text
//!   loop A                                            loop B
//!   Group::notify ── encoded once ──▶ its members     inbox ──▶ its members
//!        └───────── one message per loop ─────────────▶┘
//!
//!   Group::ask ──▶ a call for each member here        inbox ──▶ a call for each member there
//!        └─ Answers ◀── outcomes ──────────────────────── outcomes, one by one
//! ```
//!
//! A group with a name is one set for the whole process, so that a member is reached from any loop. A group without a
//! name holds sessions of its own loop only. Members leave by themselves when their session ends for good: an accepted
//! one with its link, an opened one when it is closed.
//!
//! The files: `registry.rs` is what loops share; `local.rs` the members of one loop; `notify.rs` and `ask.rs` send.

mod ask;
mod local;
mod notify;
mod registry;

pub use ask::{Answer, Answers};
#[doc(hidden)]
pub use registry::names;

use crate::error::{Error, ErrorKind};
use crate::session::options::Timeout;
use crate::session::{EncodedCall, Session};
use ask::Limit;
use local::LocalGroup;
use registry::Record;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use yue_scheduler::simulation::PerHost;
use yue_scheduler::{deadline_after, this_loop};

/// A set of sessions. Clones are the same set. It belongs to the loop that created it; with a name, every loop of the
/// process has the same members.
///
/// ```
/// use std::rc::Rc;
/// use yue_rpc::group::Group;
/// use yue_rpc::session::EncodedCall;
/// use yue_rpc::typed::{Client, Server, peer};
/// use yue_rpc::{Error, Timeout};
///
/// yue_io::run(|| -> Result<(), Error> {
///     let server = Server::new().handler("enter", |()| {
///         let player = peer().ok_or("no peer")?;
///         Group::named("lobby").join(player.session());
///         Ok(())
///     });
///     let listener = server.listen("tcp://127.0.0.1:0")?;
///     let (sender, received) = yue_scheduler::sync::local::channel(1);
///     let us = Server::new()
///         .handler("say", move |line: String| Ok(drop(sender.try_send(line))))
///         .handler("name", |()| Ok("frodo"));
///     let client = Client::open_with(&listener.address().to_string(), us, Default::default())?;
///     client.call::<_, ()>("enter", ())?;
///
///     let lobby = Group::named("lobby");
///     let taken = lobby.notify(&EncodedCall::new("say", |out| {
///         out.extend_from_slice(b"\xa2hi");
///         Ok(1)
///     })?)?;
///     assert_eq!(taken, 1);
///     assert_eq!(received.recv().unwrap(), "hi");
///
///     let name = EncodedCall::new("name", |_| Ok(0))?;
///     for answer in lobby.ask(Timeout::Default, &name).wait()? {
///         assert_eq!(answer.result?.bytes(), b"\xa5frodo");
///     }
///     drop(client);
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Group {
    handle: Rc<Handle>,
}

/// The handles of one group on one loop.
struct Handle {
    local: Rc<LocalGroup>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Nobody can find it any more.
        if self.local.shared.is_none() {
            self.local.dissolve();
        }
    }
}

/// Identifies a membership in the whole process: the number of a session's join. Later joins have larger numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(u64);

impl MemberId {
    fn next() -> MemberId {
        static NEXT: PerHost<AtomicU64> = PerHost::new(|| AtomicU64::new(1));
        // Relaxed: it only matters that no number is used twice.
        MemberId(NEXT.get().fetch_add(1, Ordering::Relaxed))
    }

    /// The number.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The membership with that number; it may not exist any more.
    pub fn from_number(number: u64) -> MemberId {
        MemberId(number)
    }
}

/// A member of a group, as it was when it was looked up.
#[derive(Clone)]
pub struct Member {
    id: MemberId,
    session: Option<Session>,
    record: Option<Arc<Record>>,
}

impl Member {
    /// The number of its join.
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// The session, if it belongs to this loop.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// The address of its peer.
    pub fn address(&self) -> &str {
        match (&self.session, &self.record) {
            (Some(session), _) => session.address(),
            (None, Some(record)) => &record.address,
            (None, None) => "",
        }
    }

    /// The bytes that it joined with; see [`Group::join_with`].
    pub fn data(&self) -> Option<&[u8]> {
        self.record.as_ref()?.data.as_deref()
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("id", &self.id.0)
            .field("address", &self.address())
            .field("is_here", &self.session.is_some())
            .finish_non_exhaustive()
    }
}

impl Group {
    /// Creates a group without a name. Its members leave when the last handle is dropped.
    ///
    /// # Panics
    /// Outside a loop.
    pub fn new() -> Group {
        Group::of(LocalGroup::new(None))
    }

    /// The group of that name. Every loop of the process finds the same members. A group that has neither members nor
    /// handles is forgotten.
    ///
    /// # Panics
    /// Outside a loop.
    pub fn named(name: &str) -> Group {
        Group::of(LocalGroup::named(name))
    }

    fn of(local: Rc<LocalGroup>) -> Group {
        Group {
            handle: Rc::new(Handle { local }),
        }
    }

    fn local(&self) -> &LocalGroup {
        &self.handle.local
    }

    /// The name, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.local().shared.as_ref().map(|shared| &**shared.name())
    }

    /// Adds a session of this loop. Returns whether it is a member now: a session that has ended for good is not.
    ///
    /// # Panics
    /// On another loop than the session's.
    pub fn join(&self, session: &Session) -> bool {
        let timeout = session.default_timeout();
        self.join_with(session, None, timeout)
    }

    /// Like [`Group::join`], with `data` that other loops read as [`Member::data`], and with the time limit of calls by
    /// [`Group::ask`] that set none. A member that joins again gets these new ones. A group without a name keeps no
    /// data.
    ///
    /// # Panics
    /// On another loop than the session's.
    pub fn join_with(&self, session: &Session, data: Option<Arc<[u8]>>, timeout: Duration) -> bool {
        self.local().join(session, data, timeout)
    }

    /// Removes a session of this loop. Returns whether it was a member.
    ///
    /// # Panics
    /// On another loop than the session's.
    pub fn leave(&self, session: &Session) -> bool {
        self.local().leave(session)
    }

    /// The number of members, on all loops.
    pub fn len(&self) -> usize {
        match &self.local().shared {
            Some(shared) => shared.len(),
            None => self.local().count(),
        }
    }

    /// Whether no loop has a member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The members on all loops, in the order in which they joined.
    pub fn members(&self) -> Vec<Member> {
        let mut here = Vec::new();
        self.local().each(None, |id, session| {
            here.push(Member {
                id,
                session: Some(session),
                record: None,
            });
        });
        here.sort_unstable_by_key(|member| member.id);
        let Some(shared) = &self.local().shared else {
            return here;
        };
        let records = shared.records().into_iter().map(|record| {
            let known = here.binary_search_by_key(&record.id, |member| member.id);
            Member {
                id: record.id,
                session: known.ok().and_then(|at| here[at].session.clone()),
                record: Some(record),
            }
        });
        records.collect()
    }

    /// Notifies every member. Never waits: a member that does not keep up is treated as its
    /// [`Options::when_full`](crate::Options::when_full) says. Returns the number of members that took the
    /// notification; those of another loop count when it was passed to their loop.
    ///
    /// # Errors
    /// The mistake in the message, if no member took it because of one (it is too large, for example).
    ///
    /// # Panics
    /// On another loop than the group's.
    pub fn notify(&self, call: &EncodedCall) -> Result<usize, Error> {
        self.notify_members(None, None, call)
    }

    /// Like [`Group::notify`], as [`Session::notify_within`] does it.
    ///
    /// # Errors
    /// Like [`Group::notify`].
    ///
    /// # Panics
    /// On another loop than the group's.
    pub fn notify_within(&self, time: Duration, call: &EncodedCall) -> Result<usize, Error> {
        self.notify_members(None, Some(time), call)
    }

    /// Like [`Group::notify`], for that member alone, on whichever loop it is; `time` as in [`Group::notify_within`].
    ///
    /// # Errors
    /// Like [`Group::notify`].
    ///
    /// # Panics
    /// On another loop than the group's.
    pub fn notify_member(
        &self,
        member: MemberId,
        time: Option<Duration>,
        call: &EncodedCall,
    ) -> Result<bool, Error> {
        let taken = self.notify_members(Some(member), time, call)?;
        Ok(taken != 0)
    }

    fn notify_members(
        &self,
        only: Option<MemberId>,
        time: Option<Duration>,
        call: &EncodedCall,
    ) -> Result<usize, Error> {
        self.check_loop();
        notify::notify(self.local(), only, time.map(deadline_after), call)
    }

    /// Notifies every member with arguments of its own, which `params` appends: for arguments that are not the same for
    /// each, such as functions.
    ///
    /// # Errors
    /// `ArgumentError` if the group has members on other loops, whose arguments this loop cannot encode; nothing is
    /// sent then. Otherwise like [`Group::notify`].
    ///
    /// # Panics
    /// On another loop than the group's.
    pub fn notify_each(
        &self,
        name: &[u8],
        time: Option<Duration>,
        params: impl FnMut(&Session, &mut Vec<u8>) -> Result<u32, Error>,
    ) -> Result<usize, Error> {
        self.check_loop();
        self.check_all_are_here()?;
        notify::notify_each(self.local(), name, time, params)
    }

    /// Calls every member, all at the same time. Never waits: [`Answers::wait`] does.
    ///
    /// # Panics
    /// On another loop than the group's.
    pub fn ask(&self, timeout: Timeout, call: &EncodedCall) -> Answers {
        self.ask_members(None, Limit::Same(timeout), call)
    }

    /// Like [`Group::ask`], with a time limit for each member: the result of `limit`, which is called on the member's
    /// loop.
    ///
    /// # Panics
    /// On another loop than the group's.
    pub fn ask_limited(&self, limit: fn(&Session) -> Timeout, call: &EncodedCall) -> Answers {
        self.ask_members(None, Limit::Of(limit), call)
    }

    /// Like [`Group::ask`], for that member alone, on whichever loop it is. No answer: it is not a member any more.
    ///
    /// # Panics
    /// On another loop than the group's.
    pub fn ask_member(&self, member: MemberId, timeout: Timeout, call: &EncodedCall) -> Answers {
        self.ask_members(Some(member), Limit::Same(timeout), call)
    }

    fn ask_members(&self, only: Option<MemberId>, limit: Limit, call: &EncodedCall) -> Answers {
        self.check_loop();
        ask::ask(self.local(), only, limit, call)
    }

    /// Like [`Group::ask`], with arguments for each member, as [`Group::notify_each`] does it.
    ///
    /// # Errors
    /// `ArgumentError` if the group has members on other loops.
    ///
    /// # Panics
    /// On another loop than the group's.
    pub fn ask_each(
        &self,
        name: &[u8],
        timeout: Timeout,
        params: impl FnMut(&Session, &mut Vec<u8>) -> Result<u32, Error>,
    ) -> Result<Answers, Error> {
        self.check_loop();
        self.check_all_are_here()?;
        Ok(ask::ask_each(
            self.local(),
            name,
            Limit::Same(timeout),
            params,
        ))
    }

    /// Closes the session of that member, on whichever loop it is, for `reason`. Returns `false` if it is not a member
    /// any more.
    ///
    /// # Panics
    /// On another loop than the group's.
    pub fn close_member(&self, member: MemberId, reason: &str) -> bool {
        self.check_loop();
        notify::close(self.local(), member, reason)
    }

    /// Whether the group has members on other loops.
    pub fn has_members_elsewhere(&self) -> bool {
        self.members_elsewhere() != 0
    }

    fn members_elsewhere(&self) -> usize {
        let local = self.local();
        let shared = local.shared.as_ref();
        shared.map_or(0, |shared| shared.len_elsewhere(local.station.loop_id()))
    }

    fn check_all_are_here(&self) -> Result<(), Error> {
        let elsewhere = self.members_elsewhere();
        if elsewhere == 0 {
            return Ok(());
        }
        let text = format!(
            "a function cannot be sent to the group {}: {elsewhere} of its members belong to other loops, and a \
             function works only on the loop that made it; send data instead",
            self.name().unwrap_or_default()
        );
        Err(Error::new(ErrorKind::Argument, text))
    }

    #[track_caller]
    fn check_loop(&self) {
        debug_assert_eq!(
            self.local().station.loop_id(),
            this_loop::id(),
            "a group is used on its own loop; another loop finds it by its name"
        );
    }
}

impl Default for Group {
    fn default() -> Group {
        Group::new()
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("name", &self.name())
            .field("members", &self.len())
            .finish_non_exhaustive()
    }
}
