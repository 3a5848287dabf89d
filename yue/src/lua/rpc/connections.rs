//! The connections and listeners of one loop, by their numbers in Lua.
//!
//! A connection gets a number when Lua first sees it: an opened one at once, an accepted one when a callback,
//! `yue.peer()` or a function that crosses needs it. Numbers are never reused, so a stale one finds nothing.
//! Connections that are closed for good are removed when the table has doubled since the last sweep.

use crate::lua::host::errors::error;
use crate::lua::host::log;
use crate::lua::host::{Hold, Host, with_host};
use crate::lua::rpc::calls;
use crate::lua::rpc::dispatch::LuaService;
use crate::lua::rpc::references::{Imports, RemoteFunction};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ffi::c_int;
use std::rc::Rc;
use std::time::Duration;
use yue_luajit::{Codec, Error, Exports, Stack, Vm};
use yue_rpc::ErrorKind;
use yue_rpc::session::Session;

/// The table is swept for closed connections when it has at least this many entries.
const SWEEP_MIN: usize = 64;

/// The maximum number of module names that get a warning; a program has no more by mistake.
const MODULE_WARNINGS_MAX: usize = 64;

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
    pub(crate) fn timeout(&self, host: &Host) -> Duration {
        let timeout = self.service.settings.timeout;
        timeout.unwrap_or_else(|| host.call_timeout.get())
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
    vm: Vm,
    by_id: RefCell<HashMap<u32, Rc<Connection>, Identity>>,
    next_id: Cell<u32>,
    sweep_at: Cell<usize>,
    pub(crate) listeners: RefCell<HashMap<u32, Listening>>,
    pub(crate) services: Cell<u32>,
    /// The number of times that each address was listened at, for the ports that loops share.
    listened: RefCell<HashMap<Vec<u8>, u32>>,
    /// Peers' functions that were collected.
    dead: RefCell<Vec<RemoteFunction>>,
    /// Names of modules in namespaces that a peer tried to call.
    warned_modules: RefCell<HashSet<Vec<u8>>>,
    /// Connections whose objects were collected.
    to_close: RefCell<Vec<u32>>,
    /// The registry references of the prelude's `connection_event`, and of its table of connection objects by number.
    pub(crate) callback: Cell<c_int>,
    pub(crate) objects: Cell<c_int>,
}

/// A hasher for ids: they are counted up, so one multiplication spreads them.
#[derive(Default, Clone)]
pub(crate) struct Identity;

impl std::hash::BuildHasher for Identity {
    type Hasher = IdentityHasher;
    fn build_hasher(&self) -> IdentityHasher {
        IdentityHasher(0)
    }
}

/// The hasher of [`Identity`].
pub(crate) struct IdentityHasher(u64);

impl std::hash::Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        // The table uses the upper bits too.
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
}

impl Connections {
    pub(crate) fn new(vm: &Vm) -> Connections {
        Connections {
            vm: vm.clone(),
            by_id: RefCell::default(),
            next_id: Cell::new(1),
            sweep_at: Cell::new(SWEEP_MIN),
            listeners: RefCell::default(),
            services: Cell::new(0),
            listened: RefCell::default(),
            dead: RefCell::default(),
            warned_modules: RefCell::default(),
            to_close: RefCell::default(),
            callback: Cell::new(0),
            objects: Cell::new(0),
        }
    }

    /// Assigns a number to a session.
    pub(crate) fn add(&self, session: Session, service: Rc<LuaService>) -> Rc<Connection> {
        self.sweep();
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let connection = Rc::new(Connection {
            id,
            vm: self.vm.clone(),
            session,
            service,
            handlers: Cell::new(0),
            exports: RefCell::new(Exports::new(&self.vm)),
            imports: RefCell::default(),
        });
        // The session and the connection hold each other until `forget`.
        connection.session.set_extension(Some(connection.clone()));
        self.by_id.borrow_mut().insert(id, connection.clone());
        connection
    }

    /// The connection of a session of that service; assigns a number now if it has none.
    #[inline]
    pub(crate) fn known(&self, session: &Session, service: &LuaService) -> Rc<Connection> {
        let known = session
            .extension()
            .and_then(|extension| extension.downcast::<Connection>().ok());
        known.unwrap_or_else(|| self.add(session.clone(), service.strong()))
    }

    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<Rc<Connection>> {
        self.by_id.borrow().get(&id).cloned()
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

    /// Drops everything at the end of the loop.
    pub(crate) fn clear(&self) {
        let all: Vec<_> = self.by_id.borrow_mut().drain().collect();
        all.iter().for_each(|(_, connection)| forget(connection));
        let listeners = self.listeners.take();
        drop(listeners);
    }

    /// Records that a function of a peer was collected. For finalizers.
    pub(crate) fn note_dead(&self, function: RemoteFunction) {
        self.dead.borrow_mut().push(function);
    }

    /// Warns, once for each name, that a module in a namespace cannot be called from outside.
    #[cold]
    pub(crate) fn warn_of_module(&self, name: &[u8]) {
        let mut warned = self.warned_modules.borrow_mut();
        if warned.len() < MODULE_WARNINGS_MAX && warned.insert(name.to_vec()) {
            let name = String::from_utf8_lossy(name);
            let text = format!(
                "`{name}` in a namespace is a loaded module, which cannot be called from outside; put the functions \
                 that may be called into a table of their own"
            );
            log::write(log::Level::Warn, text.as_bytes());
        }
    }

    /// Records that the object of an opened connection was collected. For finalizers.
    pub(crate) fn close_later(&self, id: u32) {
        self.to_close.borrow_mut().push(id);
    }

    /// Processes the records of finalizers.
    pub(crate) fn tidy(&self) {
        if !self.dead.borrow().is_empty() {
            for function in self.dead.take() {
                if let Some(connection) = self.get(function.connection) {
                    connection.release_import(function.place);
                }
            }
        }
        if !self.to_close.borrow().is_empty() {
            for id in self.to_close.take() {
                if let Some(connection) = self.get(id) {
                    connection.session.close();
                }
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

    pub(crate) fn open_count(&self) -> usize {
        let mut count = 0;
        self.each(|session| count += usize::from(session.connected() && !session.is_closed()));
        count
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

/// The host and the connection behind a number from Lua.
#[inline]
pub(crate) fn connection(id: f64) -> Result<(Rc<Host>, Rc<Connection>), Error> {
    let found = with_host(|host| {
        host.connections
            .get(id as u32)
            .map(|connection| (host.clone(), connection))
    })?;
    found.ok_or_else(|| error(ErrorKind::ConnectionLost, CLOSED))
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    calls::register_all(stack);
    crate::lua::rpc::endpoints::register_all(stack);
    crate::lua::rpc::references::register_all(stack);
}
