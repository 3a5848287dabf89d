//! The protocols beside msgpack-rpc that a listener's port may have: WebSocket, and calls by HTTP.

#[cfg(not(all(feature = "ws", feature = "http")))]
use crate::lua::host::errors::error;
use crate::lua::rpc::service::LuaService;
use std::ffi::{CStr, c_int};
use std::rc::Rc;
use yue_luajit::{Error, ffi};
use yue_rpc::ErrorKind;
use yue_rpc::transport::SocketOptions;

/// The protocols and their origins, as the prelude passes them: `{ ws, origins, http, http_origins, http_rpc }`. Lists
/// of origins are the lines of a string. The texts are on the Lua stack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports<'a> {
    ws: bool,
    origins: Option<&'a [u8]>,
    http: bool,
    http_origins: Option<&'a [u8]>,
    /// The program grants requests.
    http_rpc: bool,
}

impl<'a> Ports<'a> {
    /// Reads the table at `index`, and leaves the texts on the stack. May raise.
    ///
    /// # Safety
    /// Lua runs the calling C function on `state`, and the texts stay on its stack for `'a`.
    pub(crate) unsafe fn read(state: *mut ffi::lua_State, index: c_int) -> Ports<'a> {
        // SAFETY: the caller's promise.
        unsafe {
            ffi::luaL_checktype(state, index, ffi::LUA_TTABLE);
            let flag = |name: &CStr| {
                ffi::lua_getfield(state, index, name.as_ptr());
                let value = ffi::lua_toboolean(state, -1) != 0;
                ffi::lua_settop(state, -2);
                value
            };
            let text = |name: &CStr| {
                ffi::lua_getfield(state, index, name.as_ptr());
                (ffi::lua_type(state, -1) == ffi::LUA_TSTRING).then(|| {
                    let mut length = 0;
                    let start = ffi::lua_tolstring(state, -1, &mut length);
                    std::slice::from_raw_parts(start.cast(), length)
                })
            };
            Ports {
                ws: flag(c"ws"),
                http: flag(c"http"),
                http_rpc: flag(c"http_rpc"),
                origins: text(c"origins"),
                http_origins: text(c"http_origins"),
            }
        }
    }

    /// Adds them to the options of a listener's sockets.
    pub(crate) fn add_to(
        self,
        mut sockets: SocketOptions,
        service: &Rc<LuaService>,
    ) -> Result<SocketOptions, Error> {
        self.add_websocket(&mut sockets)?;
        self.add_http(&mut sockets, service)?;
        Ok(sockets)
    }

    #[cfg(feature = "ws")]
    fn add_websocket(self, sockets: &mut SocketOptions) -> Result<(), Error> {
        sockets.websocket.shares_port = self.ws;
        sockets.websocket.origins = self.origins.map(lines);
        Ok(())
    }

    #[cfg(not(feature = "ws"))]
    fn add_websocket(self, _: &mut SocketOptions) -> Result<(), Error> {
        let _ = self.origins;
        not_enabled("ws", self.ws)
    }

    #[cfg(feature = "http")]
    fn add_http(self, sockets: &mut SocketOptions, service: &Rc<LuaService>) -> Result<(), Error> {
        if !self.http {
            return Ok(());
        }
        let mut http = yue_rpc::transport::HttpOptions::new();
        if let Some(origins) = self.http_origins {
            http = http.origins(lines(origins));
        }
        if self.http_rpc {
            let service = service.clone();
            http = http.rpc(move |request| service.grant_http(request));
        }
        sockets.http = Some(http);
        Ok(())
    }

    #[cfg(not(feature = "http"))]
    fn add_http(self, _: &mut SocketOptions, _: &Rc<LuaService>) -> Result<(), Error> {
        let _ = (self.http_origins, self.http_rpc);
        not_enabled("http", self.http)
    }
}

#[cfg(any(feature = "ws", feature = "http"))]
fn lines(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    text.lines().map(str::to_owned).collect()
}

#[cfg(not(all(feature = "ws", feature = "http")))]
fn not_enabled(option: &str, is_given: bool) -> Result<(), Error> {
    if !is_given {
        return Ok(());
    }
    let text = format!(
        "the option {option} needs a yue that was built with the feature `{option}` of the crate yue"
    );
    Err(error(ErrorKind::Argument, text))
}

#[cfg(feature = "http")]
mod grant {
    use super::{ErrorKind, LuaService};
    use crate::lua::host;
    use crate::lua::host::entries::Entry;
    use crate::lua::host::errors::describe_failure_within;
    use yue_luajit::{Stack, ffi};
    use yue_rpc::Failure;
    use yue_rpc::transport::HttpRequest;

    impl LuaService {
        /// Asks the program's function whether a request may call.
        ///
        /// # Errors
        /// Its report, if it raised an error.
        pub(super) fn grant_http(&self, request: &HttpRequest) -> Result<bool, Failure> {
            let ended = || Failure::of_kind(ErrorKind::Server, "the program has ended");
            let host = host::current().ok_or_else(ended)?;
            let mut thread = host
                .vm
                .borrow_state()
                .map_err(|busy| Failure::of_kind(ErrorKind::ServerBusy, busy.to_string()))?;
            let (id, codec) = (self.id, self.settings.codec);
            thread.attach(|running| {
                let outcome = running.enter(|stack| {
                    // SAFETY: protected by `enter`.
                    unsafe {
                        Entry::GrantHttp.push(stack.raw());
                        stack.push_number(id.into());
                        push_request(stack, request);
                    }
                    true
                });
                let state = running.state().raw();
                let first = running.state().first();
                let granted = match outcome {
                    // SAFETY: the results are on the stack of this fiber's own state.
                    Ok(_) => Ok(unsafe { ffi::lua_toboolean(state, first) != 0 }),
                    // The log of this side gets all of it; the client gets nothing.
                    Err(_) => Err(Failure::new(describe_failure_within(state, codec).report())),
                };
                crate::lua::fibers::end_record(running);
                granted
            })
        }
    }

    /// Pushes the table of a request. Nothing here has a destructor. May raise.
    ///
    /// # Safety
    /// A state where errors may be raised.
    unsafe fn push_request(stack: Stack<'_>, request: &HttpRequest) {
        let state = stack.raw();
        stack.reserve(8);
        // SAFETY: the caller's promise; there is room.
        unsafe {
            ffi::lua_createtable(state, 0, 6);
            let set = |name: &[u8], value: &str| {
                stack.push_bytes(name);
                stack.push_bytes(value.as_bytes());
                ffi::lua_rawset(state, -3);
            };
            set(b"name", &request.name);
            set(b"method", &request.method);
            set(b"path", &request.path);
            set(b"address", &request.peer);
            if let Some(name) = &request.peer_name {
                set(b"peer_name", name);
            }
            stack.push_bytes(b"headers");
            ffi::lua_createtable(state, 0, request.headers.len() as i32);
            for (name, value) in &request.headers {
                stack.push_bytes(name.as_bytes());
                stack.push_bytes(name.as_bytes());
                ffi::lua_rawget(state, -3);
                if ffi::lua_type(state, -1) == ffi::LUA_TSTRING {
                    // Values of one name form a list (RFC 9110, section 5.3).
                    stack.push_bytes(b", ");
                    stack.push_bytes(value.as_bytes());
                    ffi::lua_concat(state, 3);
                } else {
                    ffi::lua_settop(state, -2);
                    stack.push_bytes(value.as_bytes());
                }
                ffi::lua_rawset(state, -3);
            }
            ffi::lua_rawset(state, -3);
        }
    }
}
