//! Listening and opening: the natives behind `yue.listen` and `yue.open`, and what Lua asks of a connection.

use super::connections::{Connection, Listening, connection};
use super::dispatch::{Layers, LuaService, ServiceSettings};
use super::errors::{error, rpc_error};
use super::host::{self, Host, with_host};
use super::native::{Results, native, register, register_raw};
use super::wait::seconds;
use std::ffi::c_int;
use std::rc::Rc;
use yue_io::net::ListenOptions;
use yue_luajit::{Error, Stack, ffi, may_suspend, raise, suspending};
use yue_rpc::session::{Service, Session, peer};
use yue_rpc::transport::{SocketOptions, connector_with};
use yue_rpc::{Address, ErrorKind, Limits, Listener, Options};
use yue_scheduler::StackClass;

/// The values of a message may take so many times the largest message's bytes, unless the options say otherwise. (An
/// empty table is 1 byte on the wire and 64 in Lua.)
const DECODED_PER_BYTE: usize = 8;

/// Options as Lua gives them: seconds, bytes, counts. Absent means the default.
#[derive(Debug, Clone, Copy, Default)]
struct Settings {
    timeout: Option<f64>,
    handshake_timeout: Option<f64>,
    message_max: Option<f64>,
    nesting_max: Option<f64>,
    decoded_max: Option<f64>,
    in_flight_max: Option<f64>,
    held_max: Option<f64>,
    output_high: Option<f64>,
    references_max: Option<f64>,
    /// Seconds, or not at all.
    keepalive: Option<Option<f64>>,
    reconnect: Option<bool>,
    traceback: Option<bool>,
    retry: bool,
    legacy: bool,
}

impl Settings {
    /// Reads the table at `index`. May raise.
    ///
    /// # Safety
    /// Lua runs the calling C function on `state`.
    unsafe fn read(state: *mut ffi::lua_State, index: c_int) -> Settings {
        // SAFETY: the caller's promise.
        unsafe {
            ffi::luaL_checktype(state, index, ffi::LUA_TTABLE);
            let number = |name: &std::ffi::CStr| {
                ffi::lua_getfield(state, index, name.as_ptr());
                let value = (ffi::lua_type(state, -1) == ffi::LUA_TNUMBER)
                    .then(|| ffi::lua_tonumber(state, -1));
                ffi::lua_settop(state, -2);
                value
            };
            let flag = |name: &std::ffi::CStr| {
                ffi::lua_getfield(state, index, name.as_ptr());
                let value = (ffi::lua_type(state, -1) == ffi::LUA_TBOOLEAN)
                    .then(|| ffi::lua_toboolean(state, -1) != 0);
                ffi::lua_settop(state, -2);
                value
            };
            Settings {
                timeout: number(c"timeout"),
                handshake_timeout: number(c"handshake_timeout"),
                message_max: number(c"message_max"),
                nesting_max: number(c"nesting_max"),
                decoded_max: number(c"decoded_max"),
                in_flight_max: number(c"in_flight_max"),
                held_max: number(c"held_max"),
                output_high: number(c"output_high"),
                references_max: number(c"references_max"),
                keepalive: match flag(c"keepalive") {
                    Some(_) => Some(None),
                    None => number(c"keepalive").map(Some),
                },
                reconnect: flag(c"reconnect"),
                traceback: flag(c"traceback"),
                retry: flag(c"retry").unwrap_or(false),
                legacy: flag(c"legacy").unwrap_or(false),
            }
        }
    }

    fn sockets(&self) -> SocketOptions {
        let defaults = SocketOptions::default();
        SocketOptions {
            keepalive: self
                .keepalive
                .map_or(defaults.keepalive, |limit| limit.map(seconds)),
            ..defaults
        }
    }

    /// What this layer itself needs of them.
    fn of_service(&self) -> ServiceSettings {
        let limits = self.options().limits;
        let decoded_bytes_max = match self.decoded_max {
            Some(bytes) => bytes as usize,
            None => limits.message_bytes_max.saturating_mul(DECODED_PER_BYTE),
        };
        ServiceSettings {
            timeout: self.timeout.map(seconds),
            codec: yue_luajit::codec::Limits {
                nesting_max: u32::try_from(limits.nesting_max).unwrap_or(u32::MAX),
                decoded_bytes_max,
            },
            references_max: limits.references_max,
            traceback: self.traceback,
        }
    }

    fn options(&self) -> Options {
        let defaults = Limits::default();
        // `as` saturates, so that a huge number is no limit.
        let size =
            |value: Option<f64>, default: usize| value.map_or(default, |value| value as usize);
        let message_bytes_max = size(self.message_max, defaults.message_bytes_max);
        let limits = Limits {
            message_bytes_max,
            nesting_max: size(self.nesting_max, defaults.nesting_max),
            in_flight_max: size(self.in_flight_max, defaults.in_flight_max),
            held_bytes_max: size(self.held_max, defaults.held_bytes_max),
            output_bytes_high: size(self.output_high, defaults.output_bytes_high),
            references_max: size(self.references_max, defaults.references_max),
            // The largest message must fit.
            pending_input_bytes_max: defaults.pending_input_bytes_max.max(message_bytes_max),
            handshake: self.handshake_timeout.map_or(defaults.handshake, seconds),
            ..defaults
        };
        let defaults = Options::default();
        Options {
            limits,
            timeout: self.timeout.map_or(defaults.timeout, seconds),
            legacy: self.legacy,
            reconnect: self.reconnect.unwrap_or(true),
            retry: self.retry,
            stack: StackClass::Lua,
        }
    }
}

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

/// `open(address, options, layers)`: the number of a new connection.
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

/// `listen(address, options, layers)`: the listener's number, its address, its service's number.
unsafe extern "C-unwind" fn listen_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        let (address, settings, layers) = read_endpoint(state);
        let outcome = suspending(state, "listen", || {
            let layers = Layers::new(layers)?;
            may_suspend()?;
            let (host, key) =
                with_host(|host| (host.clone(), host.connections.next_listen_key(address)))?;
            let (address, listen) = place(&host, parse(address)?, &key)?;
            let sockets = SocketOptions {
                listen,
                ..settings.sockets()
            };
            let (service, both) = new_service(&host, &settings, layers, false);
            let listener = Listener::bind_with(&address, both, settings.options(), &sockets)
                .map_err(|failure| rpc_error(&failure))?;
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

/// Where to listen, and how: the loops of a `-c N` program share their ports.
fn place(host: &Rc<Host>, address: Address, key: &str) -> Result<(Address, ListenOptions), Error> {
    let (Address::Tcp { host: name, port }, true) = (&address, host.program.loops > 1) else {
        return Ok((address, ListenOptions::default()));
    };
    let find_out = || {
        // Bound alone, without sharing: so a port that another program has is found out.
        let probe =
            yue_io::net::TcpListener::bind_with((name.as_str(), *port), &ListenOptions::default());
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
    match host.program.shared_ports.resolve(key, find_out)? {
        Ok(port) => {
            let shared = ListenOptions {
                reuse_port: true,
                ..ListenOptions::default()
            };
            Ok((
                Address::Tcp {
                    host: name.clone(),
                    port,
                },
                shared,
            ))
        }
        Err(text) => Err(error(ErrorKind::Address, text)),
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
    /// A worker thread's own listener does not keep its program going.
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
    /// Warns that a global of a file of symbols is a module.
    WarnOfModule = "warn_of_module", suspends: false;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(name) -> () { with_host(|host| host.connections.warn_of_module(name)) }
}

native! {
    /// Lua has an object of an accepted connection, and wants to know when the connection is over.
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
    /// Whether it is closed for good and has said so: no callback comes any more.
    IsClosed = "is_closed", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(id) -> bool { Ok(connection(id).map_or(true, |(_, connection)| connection.session.is_over())) }
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
    read(stack) -> f64 { stack.number(1) }
    run(id) -> () {
        if let Ok((_, connection)) = connection(id) {
            connection.session.close();
        }
        Ok(())
    }
}

native! {
    /// For finalizers: closes the connection when the loop comes round.
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
            ("requests", stats.requests),
            ("requests_in_flight", session.requests_in_flight() as u64),
            ("timeouts", stats.timeouts),
            ("bytes_in", stats.bytes_in),
            ("bytes_out", stats.bytes_out),
            ("writes", stats.writes),
            ("links", stats.links),
            ("functions_held", session.references_held() as u64),
        ]))
    }
}

/// `map(t)`: marks the table, and returns it.
unsafe extern "C-unwind" fn map_raw(state: *mut ffi::lua_State) -> c_int {
    // SAFETY: Lua calls this.
    unsafe {
        ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
        let codec = with_host(|host| host.vm.codec());
        match codec {
            Ok(codec) => codec.mark_map(Stack::new(state), 1),
            Err(failure) => raise(state, failure),
        }
        ffi::lua_settop(state, 1);
        1
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(crate) fn register_all(stack: Stack<'_>) {
    register!(stack; CloseListener, ReleaseListenerHold, ListenerConnections, Peer, ServiceOf, Watch, Know, WarnOfModule);
    register!(stack; IsAccepted, IsClosed, AddressOf, Connected, CloseConnection, CloseLater, Stats);
    // SAFETY: the table is on top, and errors may be raised.
    unsafe {
        register_raw(stack, "open", open_raw);
        register_raw(stack, "listen", listen_raw);
        register_raw(stack, "map", map_raw);
    }
}
