//! A handwritten echo server on epoll: one thread, one buffer, edge-triggered.
//!
//! It does one receive and one send per ready connection, and nothing else. A receive that did not fill the buffer took
//! all available bytes, so it is not repeated; later bytes cause a new edge. The end of a stream has its own flag, so
//! it is not missed.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};

use crate::epoll::{Epoll, Moved, receive, send};

/// The maximum bytes of one receive.
const CHUNK: usize = 64 * 1024;
/// The listener's token; a connection's token is its descriptor.
const LISTENER: u64 = u64::MAX;

/// The server's answer to received bytes.
#[derive(Clone, Debug)]
pub enum Reply {
    /// The same bytes.
    Same,
    /// One response for each `request` bytes received.
    Each {
        /// The length of a request.
        request: usize,
        /// The response to one request.
        response: Vec<u8>,
    },
}

/// Serves until an error occurs.
///
/// # Errors
///
/// When the listener or epoll fails. A broken connection is closed and is not an error.
pub fn serve(listener: &TcpListener, reply: &Reply) -> io::Result<Infallible> {
    let mut server = Server {
        reply,
        input: vec![0; CHUNK],
        output: repeated(reply),
        partial: HashMap::new(),
    };
    let mut epoll = Epoll::new()?;
    listener.set_nonblocking(true)?;
    epoll.add(listener.as_raw_fd(), LISTENER, false)?;
    loop {
        let mut accept = false;
        epoll.wait(None, |ready| {
            if ready.token == LISTENER {
                accept = true;
                return Ok(());
            }
            server.on_ready(ready.token as RawFd, ready.ended)
        })?;
        while accept {
            match listener.accept() {
                // From here the registration owns the descriptor; `close` ends it.
                Ok((stream, _)) => {
                    let descriptor = stream.into_raw_fd();
                    epoll.add(descriptor, descriptor as u64, false)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => accept = false,
                Err(error) => return Err(error),
            }
        }
    }
}

fn repeated(reply: &Reply) -> Vec<u8> {
    match reply {
        Reply::Same => Vec::new(),
        Reply::Each { request, response } => response.repeat(CHUNK / request + 1),
    }
}

struct Server<'a> {
    reply: &'a Reply,
    input: Vec<u8>,
    /// As many responses as one receive can require.
    output: Vec<u8>,
    /// Bytes of incomplete requests, by connection; most connections have none.
    partial: HashMap<RawFd, usize>,
}

impl Server<'_> {
    fn on_ready(&mut self, descriptor: RawFd, ended: bool) -> io::Result<()> {
        loop {
            let count = match receive(descriptor, &mut self.input) {
                Ok(Moved::Bytes(count)) => count,
                Ok(Moved::Later) => return Ok(()),
                Ok(Moved::Ended) | Err(_) => {
                    self.close(descriptor);
                    return Ok(());
                }
            };
            let answered = match self.reply {
                Reply::Same => send_all(descriptor, &self.input[..count]),
                Reply::Each { request, response } => {
                    let bytes = count + self.partial.remove(&descriptor).unwrap_or(0);
                    if !bytes.is_multiple_of(*request) {
                        self.partial.insert(descriptor, bytes % request);
                    }
                    send_all(descriptor, &self.output[..bytes / request * response.len()])
                }
            };
            if answered.is_err() {
                self.close(descriptor);
                return Ok(());
            }
            if count < CHUNK && !ended {
                return Ok(());
            }
        }
    }

    fn close(&mut self, descriptor: RawFd) {
        self.partial.remove(&descriptor);
        // SAFETY: the descriptor came from `into_raw_fd` and is closed once; its registration ends with it.
        drop(unsafe { <TcpStream as std::os::fd::FromRawFd>::from_raw_fd(descriptor) });
    }
}

/// Sends all bytes. The generators never leave so much unread that a send must wait; if one did, this would spin and
/// show in the figure.
fn send_all(descriptor: RawFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match send(descriptor, bytes)? {
            Moved::Bytes(count) => bytes = &bytes[count..],
            Moved::Later => std::thread::yield_now(),
            Moved::Ended => return Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
    Ok(())
}
