//! The connections and listeners of the calling thread's loop, for tools that look into a running program.
//!
//! ```text
//!   Session, Listener ── made: get a number, and an entry in their loop's table ── dropped: the entry is removed
//! ```
//!
//! Invariants: the tables hold weak pointers, so they keep nothing alive; numbers grow and are never reused, so a list
//! that is made in pieces has each connection that lived all the time once.

pub mod calls;

use crate::session::{RequestContext, Session, Usage, WeakSession, request_of};
use crate::trace::CallChain;
use crate::{Address, Stats};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Bound;
use std::rc::Weak;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use yue_scheduler::simulation::PerHost;
use yue_scheduler::{FiberId, Instant, this_loop};

/// A connection of this loop.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Its number among all that this thread has had.
    pub number: u64,
    /// The address: the peer's, or for a Unix socket the socket's.
    pub address: String,
    /// The name of the peer that the link has verified; see [`Session::peer_name`].
    pub peer_name: Option<String>,
    /// The address of the listener that accepted it. `None` for one that this side opened, or whose listener is gone.
    pub listener: Option<String>,
    /// Whether this side opened it.
    pub is_opened: bool,
    /// Its phase, in one word: `idle`, `connecting`, `greeting`, `accepting`, `up`, `draining` or `ending`.
    pub state: &'static str,
    /// The time since the session was created.
    pub age: Duration,
    /// Outgoing calls that wait for their answers.
    pub calls_in_flight: usize,
    /// Requests of the peer that wait or run.
    pub requests_in_flight: usize,
    /// Bytes that wait to be sent.
    pub queued_bytes: usize,
    /// Its counts.
    pub stats: Stats,
}

impl ConnectionInfo {
    fn of(number: u64, session: &Session, listeners: &[(usize, String)]) -> ConnectionInfo {
        let accounts = session.accounts_key();
        let listener = listeners.iter().find(|(key, _)| *key == accounts);
        ConnectionInfo {
            number,
            address: session.address().to_owned(),
            peer_name: session.peer_name(),
            listener: listener.map(|(_, address)| address.clone()),
            is_opened: session.is_opened(),
            state: session.state_name(),
            age: session.age(),
            calls_in_flight: session.calls_in_flight(),
            requests_in_flight: session.requests_in_flight(),
            queued_bytes: session.queued_bytes(),
            stats: session.stats(),
        }
    }
}

/// A listener of this loop.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListenerInfo {
    /// Its number among all that this thread has had.
    pub number: u64,
    /// The address at which it listens.
    pub address: Address,
    /// Whether it is an HTTP server: a program answers all its requests, and has no functions to call.
    pub serves_http: bool,
    /// Whether it still accepts connections.
    pub is_accepting: bool,
    /// The resources that its connections use.
    pub usage: Usage,
    /// The limit on its connections.
    pub connections_max: usize,
}

/// A listener, as its loop's table sees it.
pub(crate) trait Inspect {
    fn info(&self, number: u64) -> ListenerInfo;

    /// The number that [`Session::accounts_key`] returns for its connections.
    fn accounts_key(&self) -> usize;
}

#[derive(Default)]
struct Tables {
    sessions: RefCell<BTreeMap<u64, WeakSession>>,
    listeners: RefCell<BTreeMap<u64, Weak<dyn Inspect>>>,
    last: Cell<u64>,
}

thread_local! {
    static TABLES: Tables = Tables::default();
}

impl Tables {
    fn next_number(&self) -> u64 {
        self.last.set(self.last.get() + 1);
        self.last.get()
    }
}

/// Lists the connections of this loop that have not ended, at most `max`, in the order in which they were created,
/// beginning after the one with the number `after`. An answer of `max` connections may not be the end.
///
/// ```
/// use yue_rpc::typed::{Client, Server};
/// use yue_rpc::{Error, inspect};
///
/// yue_io::run(|| -> Result<(), Error> {
///     let listener = Server::new().handler("ping", |()| Ok("pong")).listen("tcp://127.0.0.1:0")?;
///     let client = Client::open(&listener.address().to_string())?;
///     client.call::<_, String>("ping", ())?;
///     let all = inspect::connections(0, 100);
///     assert_eq!(all.len(), 2); // Both sides are here.
///     assert!(all.iter().all(|one| one.state == "up"));
///     let accepted = all.iter().find(|one| !one.is_opened).unwrap();
///     assert_eq!(accepted.listener, Some(listener.address().to_string()));
///     assert_eq!(accepted.stats.requests, 1);
///     assert_eq!(inspect::listeners()[0].usage.connections, 1);
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn connections(after: u64, max: usize) -> Vec<ConnectionInfo> {
    let listeners = TABLES.with(|tables| {
        let listeners = tables.listeners.borrow();
        let live = listeners.iter().filter_map(|(number, listener)| {
            let listener = listener.upgrade()?;
            let address = listener.info(*number).address.to_string();
            Some((listener.accounts_key(), address))
        });
        live.collect::<Vec<_>>()
    });
    let range = (Bound::Excluded(after), Bound::Unbounded);
    // Taken out of the table first: a session that is dropped here leaves it.
    let sessions: Vec<(u64, Session)> = TABLES.with(|tables| {
        let sessions = tables.sessions.borrow();
        let live = sessions.range(range).filter_map(|(number, session)| {
            let session = session.upgrade()?;
            (!session.has_ended()).then_some((*number, session))
        });
        live.take(max).collect()
    });
    let info =
        |(number, session): &(u64, Session)| ConnectionInfo::of(*number, session, &listeners);
    sessions.iter().map(info).collect()
}

/// Returns the sums of the counts of all connections that the process has had. It may be called on any thread.
///
/// ```
/// let totals = yue_rpc::inspect::totals();
/// println!("{} connections are up", totals.links - totals.links_ended);
/// ```
pub fn totals() -> Stats {
    crate::session::metrics::totals()
}

/// Lists the listeners of this loop that exist.
pub fn listeners() -> Vec<ListenerInfo> {
    TABLES.with(|tables| {
        let listeners = tables.listeners.borrow();
        let live = listeners
            .iter()
            .filter_map(|(number, listener)| Some(listener.upgrade()?.info(*number)));
        live.collect()
    })
}

/// The address of the listener with that key, if it exists.
fn listener_address(key: usize) -> Option<String> {
    TABLES.with(|tables| {
        let listeners = tables.listeners.borrow();
        let mut live = listeners.values().filter_map(Weak::upgrade);
        let listener = live.find(|listener| listener.accounts_key() == key)?;
        Some(listener.info(0).address.to_string())
    })
}

/// A call of this loop that waits for its answer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WaitingCall {
    /// The connection's address: the peer's, or for a Unix socket the socket's.
    pub address: String,
    /// The number of the link, which the peer knows, too; see [`Session::link_id`]. 0: the peer is not a yue peer, or
    /// there is no link.
    pub link: u64,
    /// Whether this side opened the connection.
    pub is_opened: bool,
    /// The call's number on the link.
    pub msgid: u32,
    /// The fiber that waits; `None` for an asynchronous call.
    pub fiber: Option<FiberId>,
    /// The time at which an asynchronous call ends unanswered. (The wait of a fiber has its own time.)
    pub until: Option<Instant>,
}

/// Lists the calls of this loop that wait for their answers, over at most `max` connections, beginning after the one
/// with the number `after`. Returns the number of the last of these connections, if there are more.
///
/// ```
/// use yue_rpc::typed::{Client, Server};
/// use yue_rpc::{Error, inspect};
///
/// yue_io::run(|| -> Result<(), Error> {
///     let wait = |()| Ok(yue_scheduler::sleep(std::time::Duration::from_secs(60)).is_ok());
///     let listener = Server::new().handler("wait", wait).listen("tcp://127.0.0.1:0")?;
///     let client = Client::open(&listener.address().to_string())?;
///     let caller = yue_scheduler::spawn(move || client.call::<_, bool>("wait", ()).is_ok());
///     // The fiber that serves the call is known by the link and the call's number.
///     let served = loop {
///         yue_scheduler::sleep(std::time::Duration::from_millis(1)).ok();
///         let fibers = yue_scheduler::this_loop::fiber_ids();
///         if let Some(served) = fibers.into_iter().find_map(inspect::served_by) {
///             break served;
///         }
///     };
///     let (calls, _) = inspect::waiting_calls(0, 100);
///     assert_eq!(calls.len(), 1);
///     assert_eq!(calls[0].fiber, Some(caller.id()));
///     assert_eq!((calls[0].link, Some(calls[0].msgid)), (served.link, served.msgid));
///     assert!(calls[0].is_opened && !served.is_opened && served.link != 0);
///     caller.cancel();
///     Ok(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn waiting_calls(after: u64, max: usize) -> (Vec<WaitingCall>, Option<u64>) {
    let range = (Bound::Excluded(after), Bound::Unbounded);
    let sessions: Vec<(u64, Session)> = TABLES.with(|tables| {
        let sessions = tables.sessions.borrow();
        let live = sessions.range(range).filter_map(|(number, session)| {
            let session = session.upgrade()?;
            Some((*number, session))
        });
        live.take(max).collect()
    });
    let next = sessions.last().map(|(number, _)| *number);
    let next = next.filter(|_| sessions.len() == max);
    let mut calls = Vec::new();
    sessions
        .iter()
        .for_each(|(_, session)| session.add_waiting_calls(&mut calls));
    (calls, next)
}

/// The request that a fiber of this loop serves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServedRequest {
    /// The connection's address: the peer's, or for a Unix socket the socket's.
    pub address: String,
    /// The number of the link, as in [`WaitingCall::link`].
    pub link: u64,
    /// Whether this side opened the connection.
    pub is_opened: bool,
    /// The request's number on the link; `None` for a notification.
    pub msgid: Option<u32>,
    /// The call chain that it belongs to, if it is in one.
    pub chain: Option<CallChain>,
}

/// The request that this fiber of the loop serves, unless it has been answered. See [`waiting_calls`].
pub fn served_by(fiber: FiberId) -> Option<ServedRequest> {
    let context = this_loop::context_of(fiber)?;
    let request = match context.downcast() {
        Ok(request) => request,
        Err(other) => request_of(&*other)?,
    };
    RequestContext::served_by(&request, fiber)
}

/// The entry of a session in its loop's table, which lasts as long as this.
pub(crate) struct SessionEntry(u64);

impl SessionEntry {
    pub(crate) fn new(session: WeakSession) -> SessionEntry {
        TABLES.with(|tables| {
            let number = tables.next_number();
            tables.sessions.borrow_mut().insert(number, session);
            SessionEntry(number)
        })
    }
}

impl Drop for SessionEntry {
    fn drop(&mut self) {
        // Without a table the thread is ending.
        let _ = TABLES.try_with(|tables| tables.sessions.borrow_mut().remove(&self.0));
    }
}

/// Listeners of the process that exist.
static LISTENERS: PerHost<AtomicUsize> = PerHost::new(AtomicUsize::default);

/// The entry of a listener in its loop's table, which lasts as long as this.
pub(crate) struct ListenerEntry(u64);

impl ListenerEntry {
    /// `key` is the listener's [`Inspect::accounts_key`].
    pub(crate) fn new(listener: Weak<dyn Inspect>, key: usize) -> ListenerEntry {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| yue_scheduler::inspect::add_metrics(write_metrics));
        // A listener that is gone may have had it.
        calls::forget_listener(key);
        // Relaxed: only the count matters.
        LISTENERS.get().fetch_add(1, Ordering::Relaxed);
        TABLES.with(|tables| {
            let number = tables.next_number();
            tables.listeners.borrow_mut().insert(number, listener);
            ListenerEntry(number)
        })
    }
}

impl Drop for ListenerEntry {
    fn drop(&mut self) {
        LISTENERS.get().fetch_sub(1, Ordering::Relaxed);
        // Without a table the thread is ending.
        let _ = TABLES.try_with(|tables| tables.listeners.borrow_mut().remove(&self.0));
    }
}

fn write_metrics(out: &mut String) {
    let count = LISTENERS.get().load(Ordering::Relaxed);
    let name = "yue_rpc_listeners";
    let _ = writeln!(out, "# HELP {name} Listeners that a program holds.");
    let _ = writeln!(out, "# TYPE {name} gauge\n{name} {count}");
}
