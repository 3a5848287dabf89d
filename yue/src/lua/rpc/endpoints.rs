//! Endpoints: the natives behind `yue.listen` and `yue.open`, and those of listeners.

use crate::lua::host::errors::{error, rpc_error};
use crate::lua::host::{Hold, Host, with_host};
use crate::lua::native::{Results, native, register, register_raw};
use crate::lua::rpc::connections::{Counts, Listening, known, with_connections};
use crate::lua::rpc::methods::MethodTable;
use crate::lua::rpc::options::{Certificates, Settings};
use crate::lua::rpc::ports::Ports;
use crate::lua::rpc::service::{Layers, LuaService};
use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::rc::Rc;
use yue_io::net::{ListenOptions, TcpListener, UdpSocket};
use yue_luajit::{Error, Stack, ffi, may_suspend, raise, suspending};
use yue_rpc::session::{Service, Session};
use yue_rpc::transport::{SocketOptions, try_connector};
use yue_rpc::{Address, ErrorKind, Listener, SharedSocket};

/// An address and the options for it, as Lua passes them first. The texts are on the Lua stack.
#[derive(Clone, Copy)]
pub(crate) struct Endpoint<'a> {
    address: &'a [u8],
    settings: Settings,
    certificates: Certificates<'a>,
}

impl<'a> Endpoint<'a> {
    /// Reads (address, options), and leaves texts of the options on the stack. May raise.
    ///
    /// # Safety
    /// Lua runs the calling C function on `state`, and the texts stay on its stack for `'a`.
    pub(crate) unsafe fn read(state: *mut ffi::lua_State) -> Endpoint<'a> {
        // SAFETY: the caller's promise; the address stays on the stack.
        unsafe {
            let mut length = 0;
            let start = ffi::luaL_checklstring(state, 1, &mut length);
            Endpoint {
                address: std::slice::from_raw_parts(start.cast(), length),
                settings: Settings::read(state, 2),
                certificates: Certificates::read(state, 2),
            }
        }
    }

    pub(crate) fn address(&self) -> &'a [u8] {
        self.address
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn sockets(&self) -> SocketOptions {
        self.settings.sockets(self.certificates)
    }
}

/// Reads (address, options, layers); the layers go into the registry. May raise, before that.
///
/// # Safety
/// Lua runs the calling C function on `state`.
unsafe fn read_endpoint<'a>(state: *mut ffi::lua_State) -> (Endpoint<'a>, c_int) {
    // SAFETY: the caller's promise.
    unsafe {
        ffi::luaL_checktype(state, 3, ffi::LUA_TTABLE);
        let endpoint = Endpoint::read(state);
        ffi::lua_pushvalue(state, 3);
        (endpoint, ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX))
    }
}

fn parse(address: &[u8]) -> Result<Address, Error> {
    let text = String::from_utf8_lossy(address);
    text.parse()
        .map_err(|failure: yue_rpc::AddressError| error(ErrorKind::Address, failure.to_string()))
}

pub(crate) fn new_service(
    settings: &Settings,
    layers: Layers,
    opened: bool,
) -> (Rc<LuaService>, Service) {
    let id = with_connections(|all| all.next_service());
    let service = LuaService::new(id, Rc::new(layers), opened, settings.of_service());
    let both = Service::new(service.clone()).with_hooks(service.clone());
    (service, both)
}

/// `open(address, options, layers)`: returns the number of a new connection.
unsafe extern "C-unwind" fn open_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        let (endpoint, layers) = read_endpoint(state);
        let outcome = suspending(state, "open", || {
            let layers = Layers::new(layers)?;
            let connector = try_connector(&parse(endpoint.address)?, &endpoint.sockets())
                .map_err(|failure| rpc_error(&failure))?;
            let vm = with_host(|host| host.vm.clone())?;
            let (service, both) = new_service(&endpoint.settings, layers, true);
            let session = Session::open(connector, both, endpoint.settings.options());
            Ok(with_connections(|all| all.add(&vm, session, service).id))
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

/// `listen(address, options, layers, ports)`: returns the listener's number, its address, its service's number. `ports`
/// says which protocols may share the port, see [`Ports`].
unsafe extern "C-unwind" fn listen_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        let ports = Ports::read(state, 4);
        let (endpoint, layers) = read_endpoint(state);
        let outcome = suspending(state, "listen", || {
            let layers = Layers::new(layers)?;
            let (service, both) = new_service(&endpoint.settings, layers, false);
            let sockets = ports.add_to(endpoint.sockets(), &service)?;
            let listener = bind(&endpoint, both, sockets)?;
            let hold = with_host(|host| host.hold())?;
            Ok(keep(listener, service, Some(hold)))
        });
        finish_listen(state, outcome)
    }
}

/// Listens at the address, which the loops of a program share.
pub(crate) fn bind(
    endpoint: &Endpoint<'_>,
    service: Service,
    mut sockets: SocketOptions,
) -> Result<Listener, Error> {
    may_suspend()?;
    let host = with_host(Rc::clone)?;
    let key = with_connections(|all| all.next_listen_key(endpoint.address));
    let options = endpoint.settings.options();
    let listener = match find_target(&host, parse(endpoint.address)?, &key)? {
        Target::Alone(address) => Listener::bind_with(&address, service, options, &sockets),
        Target::Port(address) => {
            sockets.listen.reuse_port = true;
            Listener::bind_with(&address, service, options, &sockets)
        }
        Target::Socket(socket) => Listener::bind_shared_with(&socket, service, options, &sockets),
    };
    listener.map_err(|failure| rpc_error(&failure))
}

/// Keeps a listener under the number of its service; returns that and its address.
pub(crate) fn keep(
    listener: Listener,
    service: Rc<LuaService>,
    hold: Option<Hold>,
) -> (f64, String) {
    let text = listener.address().to_string();
    let id = service.id;
    let listening = Listening {
        listener,
        service,
        hold,
    };
    with_connections(|all| all.listeners.borrow_mut().insert(id, listening));
    (f64::from(id), text)
}

/// Pushes the number of a listener, its address, and the number of its service; or raises.
///
/// # Safety
/// Lua runs the calling C function on `state`, and nothing in it has a destructor any more.
pub(crate) unsafe fn finish_listen(
    state: *mut ffi::lua_State,
    outcome: Result<(f64, String), Error>,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        match outcome {
            Ok((id, text)) => {
                let mut text = ManuallyDrop::new(text);
                let stack = Stack::new(state);
                stack.push_number(id);
                stack.push_bytes(text.as_bytes());
                ManuallyDrop::drop(&mut text);
                stack.push_number(id);
                3
            }
            Err(failure) => raise(state, failure),
        }
    }
}

/// `http_websocket(path, options, layers, ports, server)`: a listener whose connections begin as requests to the server
/// with that number. Returns what `listen` does.
#[cfg(all(feature = "ws", feature = "http"))]
unsafe extern "C-unwind" fn http_websocket_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        let ports = Ports::read(state, 4);
        let server = ffi::luaL_checknumber(state, 5);
        let (endpoint, layers) = read_endpoint(state);
        let outcome = suspending(state, "http_websocket", || {
            let layers = Layers::new(layers)?;
            let path = String::from_utf8_lossy(endpoint.address).into_owned();
            let (service, both) = new_service(&endpoint.settings, layers, false);
            let sockets = ports.add_to(endpoint.sockets(), &service)?;
            let address = crate::lua::http::address_of(server)?;
            let address = match address {
                Address::Tcp { host, port } => Address::Ws { host, port, path },
                Address::Tls { host, port } => Address::Wss { host, port, path },
                other => other,
            };
            let options = endpoint.settings.options();
            let listener = Listener::for_upgrades(address, both, options, &sockets);
            // The server holds the program.
            Ok(keep(listener, service, None))
        });
        finish_listen(state, outcome)
    }
}

/// The address to listen at, and how to share it.
pub(crate) enum Target {
    /// An address of this loop's own.
    Alone(Address),
    /// A port that the other loops share.
    Port(Address),
    /// A Unix socket that the other loops share.
    Socket(SharedSocket),
}

/// Finds the address to listen at. The loops of a `-c N` program share their ports and their Unix sockets.
pub(crate) fn find_target(host: &Rc<Host>, address: Address, key: &str) -> Result<Target, Error> {
    if host.program.script.loops == 1 {
        return Ok(Target::Alone(address));
    }
    if let Some((name, port)) = address.host_and_port() {
        let port = shared_port(host, &address, name, port, key)?;
        return Ok(Target::Port(address.with_port(port)));
    }
    match &address {
        Address::Unix { .. } => shared_socket(host, &address, key).map(Target::Socket),
        _ => Ok(Target::Alone(address)),
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
        let probe = match address {
            Address::Udp { .. } => {
                UdpSocket::bind((name, port)).and_then(|probe| probe.local_addr())
            }
            _ => TcpListener::bind_with((name, port), &ListenOptions::default())
                .and_then(|probe| probe.local_addr()),
        };
        probe
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
        let listening = with_connections(|all| all.listeners.borrow_mut().remove(&(id as u32)));
        if let Some(listening) = listening {
            listening.listener.close();
            listening.listener.close_connections();
            drop(listening.hold);
        }
        Ok(())
    }
}

native! {
    /// Reads the certificate's files again.
    ReloadListener = "reload_listener", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> () {
        let listener = with_connections(|all| {
            all.listeners.borrow().get(&(id as u32)).map(|listening| listening.listener.clone())
        });
        match listener.map(|listener| listener.reload()) {
            Some(Err(failure)) => Err(rpc_error(&failure)),
            _ => Ok(()),
        }
    }
}

native! {
    /// Lets the program end while a worker thread's own listener is open.
    ReleaseListenerHold = "release_listener_hold", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> () {
        let hold = with_connections(|all| {
            all.listeners.borrow_mut().get_mut(&(id as u32)).and_then(|listening| listening.hold.take())
        });
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
        let vm = with_host(|host| host.vm.clone())?;
        let found = with_connections(|all| {
            let listeners = all.listeners.borrow();
            let listening = listeners.get(&(id as u32))?;
            Some((listening.listener.connections(), listening.service.clone()))
        });
        let Some((sessions, service)) = found else { return Ok(Ids(Vec::new())) };
        let ids = sessions.iter().map(|session| known(&vm, session, &service).id);
        Ok(Ids(ids.collect()))
    }
}

native! {
    /// Like `watch`, for all connections of a listener.
    WatchService = "watch_service", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> () {
        if let Some(service) = with_connections(|all| all.service(id as u32)) {
            service.watched.set(true);
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
        with_connections(|all| {
            let listeners = all.listeners.borrow();
            Ok(listeners.get(&(id as u32)).map(|listening| {
                let used = listening.listener.usage();
                let counts = Counts(vec![
                    ("connections", used.connections as u64),
                    ("requests_in_flight", used.requests_in_flight as u64),
                    ("memory", used.memory_bytes as u64),
                    ("handshakes", used.handshakes as u64),
                    ("handshakes_failed", used.handshakes_failed),
                    ("datagrams_dropped", used.datagrams_dropped),
                    ("peers_evicted", used.peers_evicted),
                ]);
                (counts, listening.service.methods.table())
            }))
        })
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; ReloadListener);
    register!(stack; CloseListener, ReleaseListenerHold, ListenerConnections, WatchService, ListenerStats);
    // SAFETY: the table is on top, and errors may be raised.
    unsafe {
        register_raw(stack, "open", open_raw);
        register_raw(stack, "listen", listen_raw);
        #[cfg(all(feature = "ws", feature = "http"))]
        register_raw(stack, "http_websocket", http_websocket_raw);
    }
}
