//! The natives of streams, and of names.

use super::address::parse_stream;
use super::chunk::Chunk;
use super::stream::{Label, Side, Socket, Stream, closed_error};
use super::tls;
use crate::lua::host::errors::{error, rpc_error};
use crate::lua::host::failure::{coded, network_failed, stop_of};
use crate::lua::host::handles::Handles;
use crate::lua::native::{Results, native, register, seconds};
use crate::lua::rpc::options::Certificates;
use smallvec::SmallVec;
use std::ffi::c_int;
use std::io::{self, IoSlice};
use std::rc::Rc;
use yue_io::net::{TcpStream, ToSocketAddrs, UnixStream};
use yue_luajit::{Error, Stack, ffi};
use yue_rpc::{Address, ErrorKind};
use yue_scheduler::{Instant, deadline_after, is_past, with_deadline};

thread_local! {
    static STREAMS: Handles<Stream> = Handles::default();
}

/// Drops this room's state at the end of the loop.
pub(super) fn clear() {
    STREAMS.with(Handles::clear);
}

/// Keeps a stream, and returns its number.
pub(super) fn add(stream: Stream) -> f64 {
    STREAMS.with(|streams| streams.add(stream))
}

fn find(number: f64) -> Result<Rc<Stream>, Error> {
    STREAMS
        .with(|streams| streams.find(number))
        .ok_or_else(|| closed_error("the stream"))
}

// -- Connecting

/// The arguments of `net_connect`.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    address: &'a [u8],
    certificates: Certificates<'a>,
    /// Seconds.
    limit: f64,
    nodelay: bool,
}

impl Target<'_> {
    fn connect(&self) -> Result<Stream, Error> {
        let address = parse_stream(self.address)?;
        let options = self.certificates.options();
        let client = match &address {
            Address::Tls { host, .. } => Some(tls::Client::load(&address, host, &options)),
            _ => options.check_unused(&address).err().map(Err),
        };
        let client = client.transpose().map_err(|failure| rpc_error(&failure))?;
        let at = deadline_after(seconds(self.limit));
        let stream = with_deadline(at, || -> io::Result<Stream> {
            let label = Label::Connected(address.to_string());
            let stream = Stream::new(open(&address)?, label, None);
            if self.nodelay {
                stream.set_nodelay()?;
            }
            Ok(stream)
        });
        let stream = stream.map_err(|failure| self.failed(&address, at, &failure))?;
        if let Some(client) = client {
            let side = Side::Client(client);
            with_deadline(at, || stream.start_tls(&side)).map_err(|failure| match is_past(at) {
                true => self.too_late(&address),
                false => failure,
            })?;
        }
        Ok(stream)
    }

    fn failed(&self, address: &Address, at: Instant, failure: &io::Error) -> Error {
        match stop_of(failure) {
            Some(_) if is_past(at) => self.too_late(address),
            _ => network_failed(&format!("cannot connect to {address}"), failure),
        }
    }

    fn too_late(&self, address: &Address) -> Error {
        let text = format!(
            "cannot connect to {address}: no answer within {} s",
            self.limit
        );
        error(ErrorKind::Timeout, text)
    }
}

fn open(address: &Address) -> io::Result<Socket> {
    match address {
        Address::Unix { path } => UnixStream::connect(path).map(Socket::Unix),
        _ => {
            let named = address.host_and_port();
            let (host, port) = named.ok_or(io::ErrorKind::InvalidInput)?;
            TcpStream::connect((host, port)).map(Socket::Tcp)
        }
    }
}

native! {
    /// `net_connect(address, options, seconds, nodelay)`: the number of a stream.
    NetConnect = "net_connect", suspends: true;
    read(stack) -> Target<'a> {
        let (address, limit, nodelay) = (stack.bytes(1), stack.number(3), stack.boolean(4));
        // SAFETY: Lua runs this function; the texts stay on the stack until it returns. The prelude passes a table.
        let certificates = unsafe { Certificates::read(stack.raw(), 2) };
        Target { address, certificates, limit, nodelay }
    }
    run(target) -> f64 { Ok(add(target.connect()?)) }
}

native! {
    /// `net_start_tls(stream, options, is_server, host)`: makes it a TLS connection.
    NetStartTls = "net_start_tls", suspends: true;
    read(stack) -> (f64, bool, &'a [u8], Certificates<'a>) {
        let (number, is_server, host) = (stack.number(1), stack.boolean(3), stack.bytes(4));
        // SAFETY: as above.
        (number, is_server, host, unsafe { Certificates::read(stack.raw(), 2) })
    }
    run((number, is_server, host, certificates)) -> () {
        let stream = find(number)?;
        let options = certificates.options();
        let host = String::from_utf8_lossy(host).into_owned();
        let address = stream.label().address();
        let side = match is_server {
            true => tls::Server::load(&address, &options).map(|server| Side::Server(Rc::new(server))),
            false => tls::Client::load(&address, &host, &options).map(Side::Client),
        };
        stream.start_tls(&side.map_err(|failure| rpc_error(&failure))?)
    }
}

native! {
    /// `net_handshake(stream)`: finishes the TLS handshake of an accepted stream.
    NetHandshake = "net_handshake", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () { find(number)?.finish_handshake() }
}

// -- Using

native! {
    /// `net_read(stream)`: the next bytes; nil at the end.
    NetRead = "net_read", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> Option<Chunk> { find(number)?.read() }
}

/// The texts from an index of the stack on, which a native's frame keeps there.
#[derive(Clone, Copy)]
pub(crate) struct Texts<'a> {
    stack: Stack<'a>,
    from: c_int,
    to: c_int,
}

impl<'a> Texts<'a> {
    /// Checks that there are only texts. May raise.
    fn read(stack: Stack<'a>, from: c_int) -> Texts<'a> {
        let to = stack.top();
        for index in from..=to {
            // Makes a text of a number.
            stack.bytes(index);
        }
        Texts { stack, from, to }
    }

    fn slices(&self) -> SmallVec<[IoSlice<'a>; 4]> {
        let text = |index| {
            let mut length = 0;
            // SAFETY: a string at a valid index: nothing is converted, so nothing raises. It stays on the stack while
            // the native runs.
            unsafe {
                let start = ffi::lua_tolstring(self.stack.raw(), index, &mut length);
                IoSlice::new(std::slice::from_raw_parts(start.cast(), length))
            }
        };
        (self.from..=self.to).map(text).collect()
    }
}

native! {
    /// `net_write(stream, text, …)`: writes the texts as one; waits until the kernel has them.
    NetWrite = "net_write", suspends: true;
    read(stack) -> (f64, Texts<'a>) { (stack.number(1), Texts::read(stack, 2)) }
    run((number, texts)) -> () { find(number)?.write(&mut texts.slices()) }
}

native! {
    /// `net_shutdown(stream)`: ends this side's direction.
    NetShutdown = "net_shutdown", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () { find(number)?.shutdown() }
}

native! {
    /// `net_goodbye(stream)`: tells the peer of a TLS connection that it ends.
    NetGoodbye = "net_goodbye", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        find(number)?.say_goodbye();
        Ok(())
    }
}

native! {
    /// `net_close(stream)`: ends its operations and closes it. Finalizers call it, too.
    NetClose = "net_close", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> () {
        if let Some(stream) = STREAMS.with(|streams| streams.remove(number)) {
            stream.close();
        }
        Ok(())
    }
}

native! {
    /// `net_addresses(stream)`: the address of this end and that of the peer; nil for one without a name.
    NetAddresses = "net_addresses", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> (Option<String>, Option<String>) {
        let stream = find(number)?;
        Ok((stream.local_text()?, stream.peer_text()?))
    }
}

native! {
    /// `net_label(stream)`: the stream in words.
    NetLabel = "net_label", suspends: false;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> String { Ok(find(number)?.label().to_string()) }
}

native! {
    /// `net_peer_name(stream)`: the name in the peer's verified certificate.
    NetPeerName = "net_peer_name", suspends: true;
    read(stack) -> f64 { stack.number(1) }
    run(number) -> Option<String> {
        let stream = find(number)?;
        stream.finish_handshake()?;
        Ok(stream.peer_name())
    }
}

// -- Names

/// Texts, as a Lua list.
pub(crate) struct List(Vec<String>);

impl Results for List {
    fn push(&mut self, stack: Stack<'_>) -> c_int {
        // SAFETY: `Stack` promises a valid state where errors may be raised.
        unsafe {
            ffi::lua_createtable(stack.raw(), self.0.len() as c_int, 0);
            for (index, text) in self.0.iter().enumerate() {
                stack.push_bytes(text.as_bytes());
                ffi::lua_rawseti(stack.raw(), -2, index as i64 + 1);
            }
        }
        1
    }
}

native! {
    /// `net_resolve(name)`: the addresses of a host, a list of texts.
    NetResolve = "net_resolve", suspends: true;
    read(stack) -> &'a [u8] { stack.bytes(1) }
    run(name) -> List {
        let name = std::str::from_utf8(name)
            .map_err(|_| coded("EINVAL", "a host name is text in UTF-8".to_owned()))?;
        let found = (name, 0).resolve()
            .map_err(|failure| network_failed(&format!("cannot resolve '{name}'"), &failure))?;
        let mut texts: Vec<String> = Vec::new();
        for address in found {
            let text = address.ip().to_string();
            // The system lists an address once for each kind of socket.
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        Ok(List(texts))
    }
}

/// Adds the natives to the `core` table on top of the stack. May raise.
pub(super) fn register_all(stack: Stack<'_>) {
    register!(
        stack; NetConnect, NetStartTls, NetHandshake, NetRead, NetWrite, NetShutdown, NetGoodbye, NetClose,
        NetAddresses, NetLabel, NetPeerName, NetResolve,
    );
}
