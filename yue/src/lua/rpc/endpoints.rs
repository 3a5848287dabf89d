//! Endpoints: the natives behind `yue.listen` and `yue.open`, and those of connection objects.

use crate::lua::host::errors::{error, rpc_error};
use crate::lua::host::{self, Host, with_host};
use crate::lua::native::{Results, native, register, register_raw};
use crate::lua::rpc::connections::{Connection, Listening, connection};
use crate::lua::rpc::dispatch::{Layers, LuaService};
use crate::lua::rpc::methods::MethodTable;
use crate::lua::rpc::options::Settings;
use std::ffi::c_int;
use std::rc::Rc;
use yue_io::net::ListenOptions;
use yue_luajit::{Codec, Error, Stack, ffi, may_suspend, raise, suspending};
use yue_rpc::session::{RequestContext, Service, Session, peer};
use yue_rpc::transport::connector_with;
use yue_rpc::{Address, ErrorKind, Listener, SharedSocket};
use yue_scheduler::{Instant, now};

/// Reads (address, options, layers); the layers go into the registry. May raise, before that.
///
/// # Safety
/// Lua runs the calling C function on `state`.
unsafe fn read_endpoint<'a>(state: *mut ffi::lua_State) -> (&'a [u8], Settings, c_int) {
    // SAFETY: the caller's promise; the address stays on the stack.
    unsafe {
        let mut length = 0;
        let start = ffi::luaL_checklstring(state, 1, &mut length);
        let address = std::slice::from_raw_parts(start.cast(), length);
        let settings = Settings::read(state, 2);
        ffi::luaL_checktype(state, 3, ffi::LUA_TTABLE);
        ffi::lua_pushvalue(state, 3);
        (
            address,
            settings,
            ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX),
        )
    }
}

fn parse(address: &[u8]) -> Result<Address, Error> {
    let text = String::from_utf8_lossy(address);
    text.parse()
        .map_err(|failure: yue_rpc::AddressError| error(ErrorKind::Address, failure.to_string()))
}

fn new_service(
    host: &Host,
    settings: &Settings,
    layers: Layers,
    opened: bool,
) -> (Rc<LuaService>, Service) {
    let id = host.connections.services.get() + 1;
    host.connections.services.set(id);
    let service = LuaService::new(id, Rc::new(layers), opened, settings.of_service());
    let both = Service::new(service.clone()).with_hooks(service.clone());
    (service, both)
}

/// `open(address, options, layers)`: returns the number of a new connection.
unsafe extern "C-unwind" fn open_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        let (address, settings, layers) = read_endpoint(state);
        let outcome = suspending(state, "open", || {
            let layers = Layers::new(layers)?;
            let connector = connector_with(&parse(address)?, &settings.sockets());
            with_host(|host| {
                let (service, both) = new_service(host, &settings, layers, true);
                let session = Session::open(connector, both, settings.options());
                host.connections.add(session, service).id
            })
        });
        match outcome {
            Ok(id) => {
                ffi::lua_pushnumber(state, id.into());
                1
            }
            Err(failure) => raise(state, failure),
        }
    }
}

/// `listen(address, options, layers)`: returns the listener's number, its address, its service's number.
unsafe extern "C-unwind" fn listen_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        let (address, settings, layers) = read_endpoint(state);
        let outcome = suspending(state, "listen", || {
            let layers = Layers::new(layers)?;
            may_suspend()?;
            let (host, key) =
                with_host(|host| (host.clone(), host.connections.next_listen_key(address)))?;
            let place = place(&host, parse(address)?, &key)?;
            let (service, both) = new_service(&host, &settings, layers, false);
            let (options, sockets) = (settings.options(), settings.sockets());
            let listener = match place {
                Place::Alone(address) => Listener::bind_with(&address, both, options, &sockets),
                Place::Port(address) => {
                    let mut sockets = sockets;
                    sockets.listen.reuse_port = true;
                    Listener::bind_with(&address, both, options, &sockets)
                }
                Place::Socket(socket) => Listener::bind_shared(&socket, both, options),
            };
            let listener = listener.map_err(|failure| rpc_error(&failure))?;
            let text = listener.address().to_string();
            let id = service.id;
            let listening = Listening {
                listener,
                service,
                hold: Some(host.hold()),
            };
            host.connections
                .listeners
                .borrow_mut()
                .insert(id, listening);
            Ok((f64::from(id), text))
        });
        match outcome {
            Ok(mut found) => {
                let id = found.0;
                let mut text = std::mem::ManuallyDrop::new(std::mem::take(&mut found.1));
                drop(found);
                let stack = Stack::new(state);
                stack.push_number(id);
                stack.push_bytes(text.as_bytes());
                std::mem::ManuallyDrop::drop(&mut text);
                stack.push_number(id);
                3
            }
            Err(failure) => raise(state, failure),
        }
    }
}

/// The address to listen at, and how to share it.
enum Place {
    Alone(Address),
    /// A port that the other loops share.
    Port(Address),
    /// A Unix socket that the other loops share.
    Socket(SharedSocket),
}

/// Finds the address to listen at. The loops of a `-c N` program share their ports and their Unix sockets.
fn place(host: &Rc<Host>, address: Address, key: &str) -> Result<Place, Error> {
    if host.program.script.loops == 1 {
        return Ok(Place::Alone(address));
    }
    match &address {
        Address::Tcp { host: name, port } => {
            let port = shared_port(host, &address, name, *port, key)?;
            let host = name.clone();
            Ok(Place::Port(Address::Tcp { host, port }))
        }
        Address::Unix { .. } => shared_socket(host, &address, key).map(Place::Socket),
        Address::Thread { .. } => Ok(Place::Alone(address)),
    }
}

fn shared_port(
    host: &Rc<Host>,
    address: &Address,
    name: &str,
    port: u16,
    key: &str,
) -> Result<u16, Error> {
    let find_out = || {
        // Bound without sharing first, to find out whether another program uses the port.
        let probe = yue_io::net::TcpListener::bind_with((name, port), &ListenOptions::default());
        probe
            .and_then(|probe| probe.local_addr())
            .map(|at| at.port())
            .map_err(|failure| match failure.kind() {
                std::io::ErrorKind::AddrInUse => {
                    format!("cannot listen at {address}: another listens there")
                }
                _ => format!("cannot listen at {address}: {failure}"),
            })
    };
    let outcome = host.program.shared_ports.resolve(key, |_| true, find_out)?;
    outcome.map_err(|text| error(ErrorKind::Address, text))
}

fn shared_socket(host: &Rc<Host>, address: &Address, key: &str) -> Result<SharedSocket, Error> {
    loop {
        let mut bound = None;
        let bind = || {
            let socket = SharedSocket::bind(address).map_err(|failure| failure.message())?;
            Ok(bound.insert(socket).downgrade())
        };
        let sockets = &host.program.shared_sockets;
        let outcome = sockets.resolve(key, |socket| socket.upgrade().is_some(), bind)?;
        let socket = outcome.map_err(|text| error(ErrorKind::Address, text))?;
        // The loops that listened there may have closed it just now: then it is bound again.
        if let Some(socket) = bound.or_else(|| socket.upgrade()) {
            return Ok(socket);
        }
    }
}

native! {
    CloseListener = "close_listener", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> () {
        let listening = with_host(|host| host.connections.listeners.borrow_mut().remove(&(id as u32)))?;
        if let Some(listening) = listening {
            listening.listener.close();
            listening.listener.close_connections();
            drop(listening.hold);
        }
        Ok(())
    }
}

native! {
    /// Lets the program end while a worker thread's own listener is open.
    ReleaseListenerHold = "release_listener_hold", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> () {
        let hold = with_host(|host| {
            host.connections.listeners.borrow_mut().get_mut(&(id as u32)).and_then(|listening| listening.hold.take())
        })?;
        drop(hold);
        Ok(())
    }
}

/// Numbers of connections, as a Lua list.
pub(crate) struct Ids(Vec<u32>);

impl Results for Ids {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        // SAFETY: `Stack` promises a valid state where errors may be raised.
        unsafe {
            ffi::lua_createtable(stack.raw(), self.0.len() as c_int, 0);
            for (index, id) in self.0.iter().enumerate() {
                stack.push_number((*id).into());
                ffi::lua_rawseti(stack.raw(), -2, index as i64 + 1);
            }
        }
        1
    }
}

native! {
    ListenerConnections = "listener_connections", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> Ids {
        with_host(|host| {
            let sessions = {
                let listeners = host.connections.listeners.borrow();
                listeners.get(&(id as u32)).map(|listening| listening.listener.connections()).unwrap_or_default()
            };
            let service = host.connections.service(id as u32);
            let ids = sessions.iter().filter_map(|session| {
                Some(host.connections.known(session, service.as_deref()?).id)
            });
            Ids(ids.collect())
        })
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
    run(id) -> f64 { Ok(connection(id)?.1.service.id.into()) }
}

native! {
    Watch = "watch", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> () {
        connection(id)?.1.service.watched.set(true);
        Ok(())
    }
}

native! {
    /// Like `watch`, for all connections of a listener.
    WatchService = "watch_service", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> () {
        if let Some(service) = with_host(|host| host.connections.service(id as u32))? {
            service.watched.set(true);
        }
        Ok(())
    }
}

native! {
    /// Warns that a global of a file of symbols is a module.
    WarnOfModule = "warn_of_module", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(name) -> () { with_host(|host| host.connections.warn_of_module(name)) }
}

native! {
    /// Records that Lua has an object of an accepted connection, and needs to know when the connection ends.
    Know = "know", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> () {
        connection(id)?.1.service.known.set(true);
        Ok(())
    }
}

native! {
    IsAccepted = "is_accepted", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> bool { Ok(!connection(id)?.1.service.opened) }
}

native! {
    /// Whether it is closed for good and all callbacks have run.
    IsClosed = "is_closed", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> bool { Ok(connection(id).map_or(true, |(_, connection)| connection.session.has_ended())) }
}

native! {
    AddressOf = "address", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> String { Ok(connection(id)?.1.session.address().to_owned()) }
}

native! {
    Connected = "connected", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> bool { Ok(connection(id).is_ok_and(|(_, connection)| connection.session.connected())) }
}

native! {
    CloseConnection = "close", suspends: false;
    read(stack) -> (f64, &'a [u8]) { (stack.number(1), stack.bytes(2)) }
    run((id, reason)) -> () {
        if let Ok((_, connection)) = connection(id) {
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
        if let Some(host) = host::current() {
            host.connections.close_later(id as u32);
        }
        Ok(())
    }
}

/// Counters by name, as a Lua table.
pub(crate) struct Counts(Vec<(&'static str, u64)>);

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
    Stats = "stats", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> Counts {
        let session = connection(id)?.1.session.clone();
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
        ]))
    }
}

native! {
    /// Whether a message sent now leaves soon; nil if it does not and there is no link and none is being made.
    Room = "room", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> Option<bool> { Ok(connection(id).ok().and_then(|(_, connection)| connection.session.room())) }
}

native! {
    /// Requests the event `room` for the prelude when there is room.
    AskForRoom = "request_room", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> () {
        if let Ok((_, connection)) = connection(id) {
            connection.session.request_room();
        }
        Ok(())
    }
}

native! {
    /// `listener_stats(listener)`: the usage of its connections and the counts of its methods; nothing once it is
    /// closed.
    ListenerStats = "listener_stats", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> Option<(Counts, MethodTable)> {
        with_host(|host| {
            let listeners = host.connections.listeners.borrow();
            listeners.get(&(id as u32)).map(|listening| {
                let used = listening.listener.usage();
                let counts = Counts(vec![
                    ("connections", used.connections as u64),
                    ("requests_in_flight", used.requests_in_flight as u64),
                    ("memory", used.memory_bytes as u64),
                ]);
                (counts, listening.service.methods.table())
            })
        })
    }
}

native! {
    /// `method_stats(connection)`: the counts of the methods that an opened connection serves.
    MethodStats = "method_stats", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> MethodTable { Ok(connection(id)?.1.service.methods.table()) }
}

/// Marks the table at 1 by `mark`, and returns it.
///
/// # Safety
/// Lua runs the calling C function on `state`.
unsafe fn mark_raw(state: *mut ffi::lua_State, mark: fn(&Codec, Stack<'_>, c_int)) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
        let codec = with_host(|host| host.vm.codec());
        match codec {
            Ok(codec) => mark(&codec, Stack::new(state), 1),
            Err(failure) => raise(state, failure),
        }
        ffi::lua_settop(state, 1);
        1
    }
}

/// `map(t)`: marks the table, and returns it.
unsafe extern "C-unwind" fn map_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe { mark_raw(state, Codec::mark_map) }
}

/// `array(t)`: marks the table, and returns it.
unsafe extern "C-unwind" fn array_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe { mark_raw(state, Codec::mark_array) }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; CloseListener, ReleaseListenerHold, ListenerConnections, Peer, Deadline, ServiceOf);
    register!(stack; Watch, Know, WarnOfModule, IsAccepted, IsClosed, AddressOf, Connected);
    register!(stack; CloseConnection, CloseLater, Stats, ListenerStats, MethodStats);
    register!(stack; Room, AskForRoom, WatchService);
    // SAFETY: the table is on top, and errors may be raised.
    unsafe {
        register_raw(stack, "open", open_raw);
        register_raw(stack, "listen", listen_raw);
        register_raw(stack, "map", map_raw);
        register_raw(stack, "array", array_raw);
    }
}
