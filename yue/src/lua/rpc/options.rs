//! The options of `yue.listen` and `yue.open`, divided among the layers that use them.

use crate::lua::native::seconds;
use std::ffi::{CStr, c_int};
use std::time::Duration;
use yue_luajit::{codec, ffi};
use yue_rpc::transport::{DatagramOptions, SocketOptions, TlsOptions};
use yue_rpc::{Limits, Options, Rate, WhenFull};
use yue_scheduler::StackClass;

/// The default limit of a message's values, as a multiple of the largest message's bytes. (An empty table is 1 byte on
/// the wire and 64 in Lua.)
const DECODED_PER_BYTE: usize = 8;

/// Options as Lua passes them: seconds, bytes, counts. Absent means the default.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Settings {
    timeout: Option<f64>,
    handshake_timeout: Option<f64>,
    message_max: Option<f64>,
    nesting_max: Option<f64>,
    decoded_max: Option<f64>,
    in_flight_max: Option<f64>,
    held_max: Option<f64>,
    output_high: Option<f64>,
    output_max: Option<f64>,
    rate: Option<Rate>,
    when_full: WhenFull,
    references_max: Option<f64>,
    /// Seconds, or `None` for off.
    keepalive: Option<Option<f64>>,
    reconnect: Option<bool>,
    traceback: Option<bool>,
    connections_max: Option<f64>,
    handlers_max: Option<f64>,
    memory_max: Option<f64>,
    message_time: Option<f64>,
    peer_idle: Option<f64>,
    ttl: Option<f64>,
    loopback: Option<bool>,
    retry: bool,
    legacy: bool,
    cancel: bool,
    describe: bool,
    chunks: bool,
}

impl Settings {
    /// Reads the table at `index`. May raise.
    ///
    /// # Safety
    /// Lua runs the calling C function on `state`.
    pub(crate) unsafe fn read(state: *mut ffi::lua_State, index: c_int) -> Settings {
        // SAFETY: the caller's promise.
        unsafe {
            ffi::luaL_checktype(state, index, ffi::LUA_TTABLE);
            let number = |name: &CStr| {
                ffi::lua_getfield(state, index, name.as_ptr());
                let value = (ffi::lua_type(state, -1) == ffi::LUA_TNUMBER)
                    .then(|| ffi::lua_tonumber(state, -1));
                ffi::lua_settop(state, -2);
                value
            };
            let flag = |name: &CStr| {
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
                output_max: number(c"output_max"),
                rate: read_rate(state, index),
                when_full: read_when_full(state, index),
                references_max: number(c"references_max"),
                keepalive: match flag(c"keepalive") {
                    Some(_) => Some(None),
                    None => number(c"keepalive").map(Some),
                },
                reconnect: flag(c"reconnect"),
                traceback: flag(c"traceback"),
                connections_max: number(c"connections_max"),
                handlers_max: number(c"handlers_max"),
                memory_max: number(c"memory_max"),
                message_time: number(c"message_time"),
                peer_idle: number(c"peer_idle"),
                ttl: number(c"ttl"),
                loopback: flag(c"loopback"),
                retry: flag(c"retry").unwrap_or(false),
                cancel: flag(c"cancel").unwrap_or(false),
                describe: flag(c"describe").unwrap_or(true),
                chunks: flag(c"chunks").unwrap_or(true),
                legacy: flag(c"legacy").unwrap_or(false),
            }
        }
    }

    pub(crate) fn sockets(&self, certificates: Certificates<'_>) -> SocketOptions {
        let defaults = SocketOptions::default();
        SocketOptions {
            tls: certificates.options(),
            datagram: DatagramOptions {
                peer_idle: self.peer_idle.map_or(defaults.datagram.peer_idle, seconds),
                peers_max: self
                    .connections_max
                    .map_or(defaults.datagram.peers_max, |count| count as usize),
                interface: certificates.interface(),
                // The kernel takes at most 255.
                ttl: self.ttl.map(|ttl| ttl.min(255.0) as u32),
                loopback: self.loopback.unwrap_or(defaults.datagram.loopback),
            },
            handshake: self.handshake_timeout.map_or(defaults.handshake, seconds),
            keepalive: self
                .keepalive
                .map_or(defaults.keepalive, |limit| limit.map(seconds)),
            #[cfg(feature = "ws")]
            websocket: yue_rpc::transport::WebSocketOptions {
                upgrade_time: self.options().limits.handshake,
                ..defaults.websocket
            },
            ..defaults
        }
    }

    /// The settings for the Lua layer itself.
    pub(crate) fn of_service(&self) -> ServiceSettings {
        let limits = self.options().limits;
        let decoded_bytes_max = match self.decoded_max {
            Some(bytes) => bytes as usize,
            None => limits.message_bytes_max.saturating_mul(DECODED_PER_BYTE),
        };
        ServiceSettings {
            timeout: self.timeout.map(seconds),
            codec: codec::Limits {
                nesting_max: u32::try_from(limits.nesting_max).unwrap_or(u32::MAX),
                decoded_bytes_max,
            },
            references_max: limits.references_max,
            traceback: self.traceback,
            cancel: self.cancel,
            describe: self.describe,
        }
    }

    pub(crate) fn options(&self) -> Options {
        let defaults = Limits::default();
        // `as` saturates, so a huge number means no limit.
        let size =
            |value: Option<f64>, default: usize| value.map_or(default, |value| value as usize);
        let message_bytes_max = size(self.message_max, defaults.message_bytes_max);
        let limits = Limits {
            message_bytes_max,
            nesting_max: size(self.nesting_max, defaults.nesting_max),
            in_flight_max: size(self.in_flight_max, defaults.in_flight_max),
            held_bytes_max: size(self.held_max, defaults.held_bytes_max),
            output_bytes_high: size(self.output_high, defaults.output_bytes_high),
            output_bytes_max: size(self.output_max, defaults.output_bytes_max),
            rate: self.rate,
            references_max: size(self.references_max, defaults.references_max),
            // The largest message must fit.
            pending_input_bytes_max: defaults.pending_input_bytes_max.max(message_bytes_max),
            handshake: self.handshake_timeout.map_or(defaults.handshake, seconds),
            connections_max: size(self.connections_max, defaults.connections_max),
            handlers_max: size(self.handlers_max, defaults.handlers_max),
            memory_max: size(self.memory_max, defaults.memory_max),
            message_time: self.message_time.map_or(defaults.message_time, seconds),
            ..defaults
        };
        let defaults = Options::default();
        Options {
            limits,
            timeout: self.timeout.map_or(defaults.timeout, seconds),
            legacy: self.legacy,
            reconnect: self.reconnect.unwrap_or(true),
            retry: self.retry,
            when_full: self.when_full,
            cancel: self.cancel,
            chunk_bytes: defaults.chunk_bytes.filter(|_| self.chunks),
            stack: StackClass::Deep,
        }
    }
}

/// The options that are texts: those for TLS, and the interface of a group. The texts are on the Lua stack.
#[derive(Clone, Copy)]
pub(crate) struct Certificates<'a> {
    cert: Option<&'a [u8]>,
    key: Option<&'a [u8]>,
    ca: Option<&'a [u8]>,
    client_ca: Option<&'a [u8]>,
    server_name: Option<&'a [u8]>,
    interface: Option<&'a [u8]>,
    insecure: bool,
}

impl<'a> Certificates<'a> {
    /// Reads them from the table at `index`, and leaves the texts on the stack. May raise.
    ///
    /// # Safety
    /// Lua runs the calling C function on `state`, and the texts stay on its stack for `'a`.
    pub(crate) unsafe fn read(state: *mut ffi::lua_State, index: c_int) -> Certificates<'a> {
        // SAFETY: the caller's promise.
        unsafe {
            let text = |name: &CStr| {
                ffi::lua_getfield(state, index, name.as_ptr());
                (ffi::lua_type(state, -1) == ffi::LUA_TSTRING).then(|| {
                    let mut length = 0;
                    let start = ffi::lua_tolstring(state, -1, &mut length);
                    std::slice::from_raw_parts(start.cast(), length)
                })
            };
            ffi::lua_getfield(state, index, c"insecure".as_ptr());
            let insecure = ffi::lua_toboolean(state, -1) != 0;
            ffi::lua_settop(state, -2);
            Certificates {
                cert: text(c"cert"),
                key: text(c"key"),
                ca: text(c"ca"),
                client_ca: text(c"client_ca"),
                server_name: text(c"server_name"),
                interface: text(c"interface"),
                insecure,
            }
        }
    }

    fn interface(self) -> Option<String> {
        self.interface
            .map(|text| String::from_utf8_lossy(text).into_owned())
    }

    pub(crate) fn options(self) -> TlsOptions {
        let owned =
            |text: Option<&[u8]>| text.map(|text| String::from_utf8_lossy(text).into_owned());
        TlsOptions {
            cert: owned(self.cert),
            key: owned(self.key),
            ca: owned(self.ca),
            client_ca: owned(self.client_ca),
            server_name: owned(self.server_name),
            insecure: self.insecure,
        }
    }
}

/// Reads `rate`, `{ calls = n, burst = m }`, whose form the prelude has checked. May raise.
///
/// # Safety
/// Lua runs the calling C function on `state`, with a table at `index`.
unsafe fn read_rate(state: *mut ffi::lua_State, index: c_int) -> Option<Rate> {
    // SAFETY: the caller's promise.
    unsafe {
        let top = ffi::lua_gettop(state);
        ffi::lua_getfield(state, index, c"rate".as_ptr());
        let rate = (ffi::lua_type(state, -1) == ffi::LUA_TTABLE).then(|| {
            ffi::lua_getfield(state, top + 1, c"calls".as_ptr());
            ffi::lua_getfield(state, top + 1, c"burst".as_ptr());
            let calls = ffi::lua_tonumber(state, -2);
            let burst = match ffi::lua_type(state, -1) {
                ffi::LUA_TNUMBER => ffi::lua_tonumber(state, -1),
                _ => calls.ceil(),
            };
            Rate {
                calls_per_second: calls,
                burst: burst as u32,
            }
        });
        ffi::lua_settop(state, top);
        rate
    }
}

/// Reads `when_full`, whose value the prelude has checked. May raise.
///
/// # Safety
/// Lua runs the calling C function on `state`, with a table at `index`.
unsafe fn read_when_full(state: *mut ffi::lua_State, index: c_int) -> WhenFull {
    // SAFETY: the caller's promise; the text stays in the table while it is read.
    unsafe {
        ffi::lua_getfield(state, index, c"when_full".as_ptr());
        let drops = ffi::lua_type(state, -1) == ffi::LUA_TSTRING
            && CStr::from_ptr(ffi::lua_tolstring(state, -1, std::ptr::null_mut())) == c"drop";
        ffi::lua_settop(state, -2);
        if drops {
            WhenFull::Drop
        } else {
            WhenFull::Close
        }
    }
}

/// The settings of a listener, or of an opened connection, for the Lua layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServiceSettings {
    /// The time limit of calls over its connections.
    pub(crate) timeout: Option<Duration>,
    /// The limits of its connections' codec.
    pub(crate) codec: codec::Limits,
    /// The number of functions that the peer may hold.
    pub(crate) references_max: usize,
    /// Whether tracebacks are sent to the peer; if the options do not say, they stay on this machine.
    pub(crate) traceback: Option<bool>,
    /// Whether callers can stop handlers that have started.
    pub(crate) cancel: bool,
    /// Whether peers may list the functions of the namespace.
    pub(crate) describe: bool,
}
