//! The connections and listeners of one loop, by their numbers in Lua.
//!
//! A connection gets a number when Lua first sees it: an opened one at once, an accepted one when a callback,
//! `yue.peer()` or a function that crosses needs it. Numbers are never reused, so a stale one finds nothing.
//! Connections that are closed for good are removed when the table has doubled since the last sweep.

use crate::lua::host::errors::error;
use crate::lua::host::{self, Hold};
use crate::lua::native::{Results, native, register, seconds};
use crate::lua::number_hash::NumberHash;
use crate::lua::rpc::imports::{Imports, RemoteFunction};
use crate::lua::rpc::methods::MethodTable;
use crate::lua::rpc::service::LuaService;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_int;
use std::rc::Rc;
use std::time::Duration;
use yue_luajit::{Codec, Error, Exports, Stack, Vm, ffi};
use yue_rpc::ErrorKind;
use yue_rpc::session::{RequestContext, Session, peer};
use yue_scheduler::simulation::Hashing;
use yue_scheduler::{Instant, now};

/// The table is swept for closed connections when it has at least this many entries.
const SWEEP_MIN: usize = 64;

/// The time limit of a call, unless the program sets another.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Error message for calls on a closed connection that was removed.
pub(crate) const CLOSED: &str = "the connection is closed";

/// A connection that Lua knows.
pub(crate) struct Connection {
    pub(crate) id: u32,
    pub(crate) vm: Vm,
    pub(crate) session: Session,
    pub(crate) service: Rc<LuaService>,
    /// The number of running handlers and callbacks.
    pub(crate) handlers: Cell<u32>,
    /// This side's functions that the peer holds.
    pub(crate) exports: RefCell<Exports>,
    /// Functions of the peer that Lua holds.
    pub(crate) imports: RefCell<Imports>,
}

impl Connection {
    /// Whether the connection can be removed: it has ended, and so have the handlers that were called through it.
    fn is_forgettable(&self) -> bool {
        self.session.has_ended() && self.handlers.get() == 0
    }

    /// The default time limit of a call.
    #[inline]
    pub(crate) fn timeout(&self) -> Duration {
        let timeout = self.service.settings.timeout;
        timeout.unwrap_or_else(|| TIMEOUT.get())
    }

    /// Lua has collected its proxy for a remote function.
    fn release_import(&self, slot: u32) {
        let reference = self.imports.borrow_mut().take(slot);
        if let Some(reference) = reference {
            self.session.release_reference(&reference, 1);
        }
    }

    /// The VM's codec with the limits of this connection.
    #[inline]
    pub(crate) fn codec(&self) -> Codec {
        self.vm.codec().with_limits(self.service.settings.codec)
    }
}

/// An open listener.
pub(crate) struct Listening {
    pub(crate) listener: yue_rpc::Listener,
    pub(crate) service: Rc<LuaService>,
    /// Removed from a worker thread's own listener.
    pub(crate) hold: Option<Hold>,
}

/// All connections and listeners of one loop.
pub(crate) struct Connections {
    by_id: RefCell<HashMap<u32, Rc<Connection>, NumberHash>>,
    last_id: Cell<u32>,
    sweep_at: Cell<usize>,
    pub(crate) listeners: RefCell<HashMap<u32, Listening, Hashing>>,
    services: Cell<u32>,
    /// The number of times that each address was listened at, for the ports that loops share.
    listened: RefCell<HashMap<Vec<u8>, u32>>,
    /// Peers' functions that were collected.
    dead: RefCell<Vec<RemoteFunction>>,
    /// Connections whose objects were collected.
    to_close: RefCell<Vec<u32>>,
}

thread_local! {
    static CONNECTIONS: Connections = Connections::new();
    /// `yue.config.timeout`.
    static TIMEOUT: Cell<Duration> = const { Cell::new(CALL_TIMEOUT) };
}

/// Runs `f` with the connections of this loop.
#[inline]
pub(crate) fn with_connections<R>(f: impl FnOnce(&Connections) -> R) -> R {
    CONNECTIONS.with(f)
}

/// Finds a connection by its number.
#[inline]
pub(crate) fn find(id: u32) -> Option<Rc<Connection>> {
    with_connections(|all| all.by_id.borrow().get(&id).cloned())
}

/// The connection behind a number from Lua.
#[inline]
pub(crate) fn connection(id: f64) -> Result<Rc<Connection>, Error> {
    find(id as u32).ok_or_else(|| error(ErrorKind::ConnectionLost, CLOSED))
}

/// The connection of a session of that service; assigns a number now if it has none.
#[inline]
pub(crate) fn known(vm: &Vm, session: &Session, service: &LuaService) -> Rc<Connection> {
    let known = session
        .extension()
        .and_then(|extension| extension.downcast::<Connection>().ok());
    known.unwrap_or_else(|| with_connections(|all| all.add(vm, session.clone(), service.strong())))
}

/// Drops this file's state at the end of the loop.
pub(crate) fn clear() {
    with_connections(Connections::clear);
    TIMEOUT.set(CALL_TIMEOUT);
}

impl Connections {
    fn new() -> Connections {
        Connections {
            by_id: RefCell::default(),
            last_id: Cell::new(0),
            sweep_at: Cell::new(SWEEP_MIN),
            listeners: RefCell::default(),
            services: Cell::new(0),
            listened: RefCell::default(),
            dead: RefCell::default(),
            to_close: RefCell::default(),
        }
    }

    /// The number of another service.
    pub(crate) fn next_service(&self) -> u32 {
        let id = self.services.get() + 1;
        self.services.set(id);
        id
    }

    /// Assigns a number to a session.
    pub(crate) fn add(&self, vm: &Vm, session: Session, service: Rc<LuaService>) -> Rc<Connection> {
        self.sweep();
        let id = self.last_id.get() + 1;
        self.last_id.set(id);
        let connection = Rc::new(Connection {
            id,
            vm: vm.clone(),
            session,
            service,
            handlers: Cell::new(0),
            exports: RefCell::new(Exports::new(vm)),
            imports: RefCell::default(),
        });
        // The session and the connection hold each other until `forget`.
        let before = connection.session.set_extension(Some(connection.clone()));
        debug_assert!(before.is_none(), "a session has one number");
        self.by_id.borrow_mut().insert(id, connection.clone());
        connection
    }

    /// Distinguishes this use of an address from the loop's other uses; the same on every loop of the program.
    pub(crate) fn next_listen_key(&self, address: &[u8]) -> String {
        let mut listened = self.listened.borrow_mut();
        let count = listened.entry(address.to_vec()).or_default();
        *count += 1;
        format!("{}#{count}", String::from_utf8_lossy(address))
    }

    /// The service of a listener.
    pub(crate) fn service(&self, id: u32) -> Option<Rc<LuaService>> {
        self.listeners
            .borrow()
            .get(&id)
            .map(|listening| listening.service.clone())
    }

    fn sweep(&self) {
        let mut all = self.by_id.borrow_mut();
        if all.len() < self.sweep_at.get() {
            return;
        }
        let closed: Vec<_> = all
            .extract_if(|_, connection| connection.is_forgettable())
            .collect();
        self.sweep_at.set((all.len() * 2).max(SWEEP_MIN));
        drop(all);
        // Outside the borrow: the end of a connection releases its anchors.
        closed.iter().for_each(|(_, connection)| forget(connection));
    }

    /// Drops everything at the end of the loop. Numbers are not reused, so a late finalizer finds nothing.
    fn clear(&self) {
        let all: Vec<_> = self.by_id.borrow_mut().drain().collect();
        all.iter().for_each(|(_, connection)| forget(connection));
        let listeners = self.listeners.take();
        drop(listeners);
        self.listened.take();
        self.dead.take();
        self.to_close.take();
        self.sweep_at.set(SWEEP_MIN);
    }

    /// Records that a function of a peer was collected. For finalizers.
    pub(crate) fn note_dead(&self, function: RemoteFunction) {
        self.dead.borrow_mut().push(function);
    }

    /// Records that the object of an opened connection was collected. For finalizers.
    fn close_later(&self, id: u32) {
        self.to_close.borrow_mut().push(id);
    }

    /// Processes the records of finalizers.
    pub(crate) fn tidy(&self) {
        if !self.dead.borrow().is_empty() {
            for function in self.dead.take() {
                if let Some(connection) = find(function.connection) {
                    connection.release_import(function.slot);
                }
            }
        }
        if !self.to_close.borrow().is_empty() {
            // A notification that was queued is still to be sent, although nobody can reach its connection any more.
            let waits = |id: &u32| find(*id).is_some_and(|found| found.session.holds_messages());
            let (waiting, closable): (Vec<_>, Vec<_>) =
                self.to_close.take().into_iter().partition(waits);
            *self.to_close.borrow_mut() = waiting;
            for connection in closable.into_iter().filter_map(find) {
                connection.session.close();
            }
        }
    }

    /// Stops accepting connections and requests.
    pub(crate) fn stop_listening(&self) {
        for listening in self.listeners.borrow().values() {
            listening.listener.close();
        }
    }

    fn each(&self, mut f: impl FnMut(&Session)) {
        self.each_with_id(|session, _, _| f(session));
    }

    /// Calls `f` for all connections, with the number of the listener's service, or, for an opened one, with its own.
    pub(crate) fn each_with_id(&self, mut f: impl FnMut(&Session, u32, bool)) {
        for (id, listening) in &*self.listeners.borrow() {
            for session in &listening.listener.connections() {
                f(session, *id, false);
            }
        }
        let all: Vec<_> = self.by_id.borrow().values().cloned().collect();
        for connection in all.iter().filter(|connection| connection.service.opened) {
            f(&connection.session, connection.id, true);
        }
    }

    pub(crate) fn requests_in_flight(&self) -> usize {
        let mut count = 0;
        self.each(|session| count += session.requests_in_flight());
        count
    }

    /// Whether messages wait for a connection that is being opened.
    pub(crate) fn wait_to_send(&self) -> bool {
        let mut wait = false;
        self.each(|session| {
            let opening = !session.connected() && session.room().is_some();
            wait |= opening && session.queued_bytes() > 0;
        });
        wait
    }

    /// Whether nothing that was written waits to be sent any more. A peer may still have to close the link.
    pub(crate) fn have_sent(&self) -> bool {
        let mut sent = true;
        self.each(|session| sent &= session.has_ended() || session.queued_bytes() == 0);
        sent
    }

    pub(crate) fn close_all(&self) {
        let mut all = Vec::new();
        self.each(|session| all.push(session.clone()));
        all.iter().for_each(Session::close);
    }
}

fn forget(connection: &Rc<Connection>) {
    connection.session.set_extension(None);
}

/// Counters by name, as a Lua table.
pub(crate) struct Counts(pub(crate) Vec<(&'static str, u64)>);

impl Results for Counts {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        // SAFETY: `Stack` promises a valid state where errors may be raised.
        unsafe {
            ffi::lua_createtable(stack.raw(), 0, self.0.len() as c_int);
            for (name, count) in &self.0 {
                stack.push_bytes(name.as_bytes());
                stack.push_number(*count as f64);
                ffi::lua_rawset(stack.raw(), -3);
            }
        }
        1
    }
}

native! {
    /// The number of the connection that the running handler was called through.
    Peer = "peer", suspends: false;
    read(_stack) -> () {}
    run(()) -> Option<f64> {
        let Some(session) = peer() else { return Ok(None) };
        let known = session.extension().and_then(|extension| extension.downcast::<Connection>().ok());
        Ok(known.map(|connection| f64::from(connection.id)))
    }
}

native! {
    /// The remaining seconds of the running handler's caller.
    Deadline = "deadline", suspends: false;
    read(_stack) -> () {}
    run(()) -> Option<f64> {
        let deadline = RequestContext::current().map_or(Instant::NEVER, |request| request.deadline());
        Ok((deadline != Instant::NEVER).then(|| deadline.saturating_since(now()).as_secs_f64()))
    }
}

native! {
    ServiceOf = "service_of", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> f64 { Ok(connection(id)?.service.id.into()) }
}

native! {
    Watch = "watch", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> () {
        connection(id)?.service.watched.set(true);
        Ok(())
    }
}

native! {
    /// Records that Lua has an object of an accepted connection, and needs to know when the connection ends.
    Know = "know", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> () {
        connection(id)?.service.known.set(true);
        Ok(())
    }
}

native! {
    IsAccepted = "is_accepted", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> bool { Ok(!connection(id)?.service.opened) }
}

native! {
    /// Whether it is closed for good and all callbacks have run.
    IsClosed = "is_closed", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> bool { Ok(connection(id).map_or(true, |connection| connection.session.has_ended())) }
}

native! {
    AddressOf = "address", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> String { Ok(connection(id)?.session.address().to_owned()) }
}

native! {
    /// The name in the peer's certificate.
    PeerName = "peer_name", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> Option<String> {
        Ok(connection(id).ok().and_then(|connection| connection.session.peer_name()))
    }
}

native! {
    Connected = "connected", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> bool { Ok(connection(id).is_ok_and(|connection| connection.session.connected())) }
}

native! {
    CloseConnection = "close", suspends: false;
    read(stack) -> (f64, &'a [u8]) { (stack.number(1), stack.bytes(2)) }
    run((id, reason)) -> () {
        if let Ok(connection) = connection(id) {
            connection.session.close_because(&String::from_utf8_lossy(reason));
        }
        Ok(())
    }
}

native! {
    /// Closes the connection in the loop's next idle phase. For finalizers.
    CloseLater = "close_later", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> () {
        // At the very end all connections are closed already.
        if host::current().is_some() {
            with_connections(|all| all.close_later(id as u32));
        }
        Ok(())
    }
}

native! {
    Stats = "stats", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> Counts {
        let session = connection(id)?.session.clone();
        let stats = session.stats();
        Ok(Counts(vec![
            ("calls", stats.calls),
            ("calls_held", stats.calls_held),
            ("calls_in_flight", session.calls_in_flight() as u64),
            ("notifications", stats.notifications),
            ("notifications_dropped", stats.notifications_dropped),
            ("notifications_late", stats.notifications_late),
            ("queued_bytes", session.queued_bytes() as u64),
            ("requests", stats.requests),
            ("requests_in_flight", session.requests_in_flight() as u64),
            ("timeouts", stats.timeouts),
            ("bytes_in", stats.bytes_in),
            ("bytes_out", stats.bytes_out),
            ("writes", stats.writes),
            ("links", stats.links),
            ("functions_held", session.references_held() as u64),
            ("reading_stopped", stats.reading_stopped),
            ("memory_stopped", stats.memory_stopped),
            ("pings", stats.pings),
            ("datagrams_dropped", stats.datagrams_dropped),
        ]))
    }
}

native! {
    /// Whether a message sent now leaves soon; nil if it does not, and no link is up or being made.
    Room = "room", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> Option<bool> { Ok(connection(id).ok().and_then(|connection| connection.session.room())) }
}

native! {
    /// Requests the event `room` for the prelude when there is room.
    AskForRoom = "ask_for_room", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> () {
        if let Ok(connection) = connection(id) {
            connection.session.request_room();
        }
        Ok(())
    }
}

native! {
    /// `method_stats(connection)`: the counts of the methods that an opened connection serves.
    MethodStats = "method_stats", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> MethodTable { Ok(connection(id)?.service.methods.table()) }
}

native! {
    /// Returns `yue.config.timeout`, in seconds.
    GetTimeout = "get_timeout", suspends: false;
    read(_stack) -> () {}
    run(()) -> f64 { Ok(TIMEOUT.get().as_secs_f64()) }
}

native! {
    SetTimeout = "set_timeout", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(length) -> () {
        TIMEOUT.set(seconds(length));
        Ok(())
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; Peer, Deadline, ServiceOf, Watch, Know, IsAccepted, IsClosed, AddressOf, PeerName);
    register!(stack; Connected);
    register!(stack; CloseConnection, CloseLater, Stats, MethodStats, Room, AskForRoom);
    register!(stack; GetTimeout, SetTimeout);
}
